"""When a training saw a sample: its plan of the data, gone through again without any picture."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection
from dataclasses import dataclass, field

from gristmill.errors import ConfigurationError
from gristmill.model.checkpoints.checkpoint import read_facts, steps
from gristmill.model.data.planner import Planner
from gristmill.model.training.same_inputs import changed_sources, differing_inputs, input_digests
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.training_setup import make_setup


@dataclass
class Sightings:
    """What a training saw of some samples."""

    folder: str
    # Steps that the training has done.
    steps: int
    # uid -> steps, from 1, in which it was seen.
    seen: dict[str, list[int]] = field(default_factory=dict)
    # Why the steps cannot be told; empty if they can.
    unknown: str = ""


def sightings(folder: str, uids: Collection[str], product: str = "") -> Sightings:
    """Steps of the training in `folder` that saw these samples, also as the picture before an edit
    or as one of a document; of `product` alone, if given.

    Exact as long as the shards are those of the training, as they are found by their digest.
    Raises `ConfigurationError` for a folder that holds no training.
    """
    checkpoints = os.path.join(folder, "checkpoints")
    done = steps(checkpoints)
    if not done:
        raise ConfigurationError(f"{folder} holds no checkpoint of a training")
    facts = read_facts(checkpoints, done[-1])
    config = TrainConfig.from_dict(facts["config"])
    found = Sightings(folder, done[-1])
    sources = [
        number
        for number, source in enumerate(config.data)
        if not product or _same(source.url, product)
    ]
    if not sources:
        return found
    config = dataclasses.replace(config, out=folder)
    setup = make_setup(config)
    planner = setup.planner
    if differing := differing_inputs(facts, input_digests(setup)):
        found.unknown = f"its {' and '.join(differing)} became others; steps cannot be told"
        return found
    if not set(sources).isdisjoint(changed_sources(facts, planner.digests)):
        found.unknown = "its shards were written anew since; steps cannot be told"
        return found
    if since := facts["data_from"]:
        found.unknown = f"its shards changed after step {since}; steps cannot be told"
        return found
    for samples in planner.samples:
        # What is forgotten now was not when the training saw it.
        samples.forgotten = frozenset()
    _replay(planner, config, done[-1], set(uids), set(sources), found)
    return found


def _replay(
    planner: Planner,
    config: TrainConfig,
    last: int,
    uids: set[str],
    sources: set[int],
    found: Sightings,
) -> None:
    rows = last * config.rows_per_step
    for number, plan in enumerate(planner.rows(planner.start())):
        if number >= rows:
            return
        for document in plan:
            if document.source in sources and not document.left_out:
                step = number // config.rows_per_step + 1
                for uid in uids & planner.uids(document):
                    at = found.seen.setdefault(uid, [])
                    if step not in at:
                        at.append(step)


def _same(url: str, product: str) -> bool:
    """Whether a source is a product, or the run that it belongs to."""
    mine, theirs = (os.path.abspath(u) if "://" not in u else u.rstrip("/") for u in (url, product))
    return mine == theirs or f"{mine}/shards" == theirs
