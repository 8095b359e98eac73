"""What a training stands on beside its settings: files and shards that must not become others
between a stop and the next start, or it would go on as something else without a word."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from gristmill.errors import TrainingError
from gristmill.model.checkpoints.facts import CheckpointFacts, InputDigests

if TYPE_CHECKING:
    from gristmill.model.training.train_config import TrainConfig
    from gristmill.model.training.training_setup import TrainingSetup


def input_digests(setup: TrainingSetup) -> InputDigests:
    """16 hex digits of all that decides what documents and models are."""
    return {
        "codec": setup.codec.digest,
        "tokenizer": _short(setup.vocabulary.to_dict()["text"].encode()),
        "encoder": setup.encoder.digest if setup.encoder else "",
    }


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def differing_inputs(facts: CheckpointFacts, now: InputDigests) -> list[str]:
    """Names of inputs that are not those of a checkpoint."""
    before = facts["inputs"]
    return [name for name, digest in now.items() if before.get(name) != digest]


def changed_sources(facts: CheckpointFacts, digests: list[str]) -> list[int]:
    """Numbers of the sources whose shards are not those of a checkpoint."""
    return [n for n, (a, b) in enumerate(zip(facts["data"], digests, strict=True)) if a != b]


def require_same_inputs(
    facts: CheckpointFacts, config: TrainConfig, inputs: InputDigests, shards: list[str]
) -> str:
    """Raise `TrainingError` if the codec, the tokenizer, the encoder or the shards are not those
    that the checkpoint was trained with. Other shards are accepted with `accept_changed_data`;
    returns what is said of them, "" if they are the same."""
    differing = differing_inputs(facts, inputs)
    if differing:
        raise TrainingError(
            f"{config.out} was trained with another {' and '.join(differing)} than what lies "
            f"there now ({_places(config, differing)}): put back what was there, or train into "
            "another --out"
        )
    sources = changed_sources(facts, shards)
    if not sources:
        return ""
    titles = ", ".join(config.data[number].url for number in sources)
    said = f"the shards of {titles} are others than until step {facts['step']:,}"
    if not config.accept_changed_data:
        raise TrainingError(
            f"{said}: put back those that were there, or go on over the new ones with "
            "--accept-changed-data, or train into another --out"
        )
    return said


def _places(config: TrainConfig, names: list[str]) -> str:
    own = os.path.join(config.out, "tokenizer.json")
    paths = {
        "codec": config.codec,
        "tokenizer": config.tokenizer or own,
        "encoder": config.encoder,
    }
    return ", ".join(paths[name] for name in names)
