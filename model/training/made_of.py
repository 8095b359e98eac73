"""What was made of which data: a codec or a vocabulary that a training left in its folder serves
that data, and no other."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence

from gristmill.model.checkpoints import checkpoint
from gristmill.model.data.shard_sources import DataSource, open_samples
from gristmill.model.distributed.ranks import rank

# File name -> digest of the data, of the files in a folder.
RECORD = "made-of.json"


def data_digest(sources: Sequence[DataSource], *settings: object) -> str:
    """16 hex digits that change with the shards, with what is read of them, and with the
    settings."""
    facts = [[open_samples(source).digest, source.split, source.questions] for source in sources]
    text = json.dumps([facts, [str(setting) for setting in settings]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def serves(path: str, digest: str) -> bool:
    """Whether a file is there and was made of the data of that digest; says so of one that is of
    other data, or does not tell. One that a checkpoint stands on serves in any case: whether that
    training goes on is not decided here."""
    if not os.path.exists(path):
        return False
    folder, name = os.path.split(path)
    made_of = _read(folder).get(name)
    if made_of is None:
        _say(f"{path} does not tell which data it was made of; it is used as it is")
        return True
    if made_of == digest:
        return True
    if checkpoint.steps(os.path.join(folder, "checkpoints")):
        _say(f"{path} was made of other data; it stays, as the checkpoints beside it stand on it")
        return True
    _say(f"{path} was made of other data; it is made anew")
    return False


def remember(path: str, digest: str) -> None:
    """Take note of the data that a file was made of."""
    folder, name = os.path.split(path)
    record = os.path.join(folder, RECORD)
    with open(record + ".partial", "w", encoding="utf-8") as file:
        json.dump({**_read(folder), name: digest}, file, indent=1)
    os.replace(record + ".partial", record)


def _read(folder: str) -> dict[str, str]:
    try:
        with open(os.path.join(folder, RECORD), encoding="utf-8") as file:
            return {str(name): str(digest) for name, digest in json.load(file).items()}
    except (FileNotFoundError, json.JSONDecodeError, AttributeError):
        return {}


def _say(text: str) -> None:
    if rank() == 0:
        print(text, file=sys.stderr, flush=True)
