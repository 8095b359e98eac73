"""What a training stands on beside its settings: files and shards that must not become others
between a stop and the next start, or it would go on as something else without a word."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from gristmill.errors import TrainingError
from gristmill.model.facts import CheckpointFacts, InputDigests

if TYPE_CHECKING:
    from gristmill.model.train_config import TrainConfig
    from gristmill.model.training_setup import TrainingSetup

_PREFIX = "local-dir:"


def input_digests(config: TrainConfig, setup: TrainingSetup) -> InputDigests:
    """16 hex digits of each file that decides what documents and models are; of weights from a hub,
    their name."""
    return {
        "codec": setup.codec.digest,
        "tokenizer": _short(setup.vocabulary.to_dict()["text"].encode()),
        "encoder": encoder_digest(config.encoder),
    }


def encoder_digest(name: str) -> str:
    """Of `local-dir:FOLDER` or MODEL/FILE the content; of MODEL/PRETRAINED, which never changes,
    the name itself."""
    path = name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else name.partition("/")[2]
    if name and os.path.exists(path):
        return content_digest(path)
    return name


def content_digest(path: str) -> str:
    """16 hex digits of a file, or of all files below a folder and their names."""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    found = []
    for folder, _, names in os.walk(path):
        for name in names:
            file_path = os.path.join(folder, name)
            found.append((os.path.relpath(file_path, path), content_digest(file_path)))
    return _short(repr(sorted(found)).encode())


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
