"""What can happen to a file of a run, and which kinds of files there are."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

# No record names them: they are for people, or of the moment.
APART = re.compile(r"logs/|report\.html|run\.lock|scratch/|pilot/")
# Records of when something was done, and of names that are drawn.
_TIMED = re.compile(r"nodes/.*/(N\.json|records\.jsonl|finished\.json)|summary\.json")


def kind_of(name: str) -> str:
    """A file's name without the numbers and tokens that tell it from its like."""
    name = re.sub(r"-[0-9a-f]{12}/", "/", name)
    name = re.sub(r"-[0-9a-f]{8}\.", "-TOKEN.", name)
    # What a phase saves lies in arrays of one kind, whatever they are called.
    name = re.sub(r"(saved/(?:\w+/)?)\w+?(\.npy|\.safetensors|\.parts)", r"\1ARRAY\2", name)
    # Of several products only the shards differ.
    name = re.sub(r"^(nodes/)?(shards|table)/", r"\1PRODUCT/", name)
    name = re.sub(r"/(train|val)\b", "/SPLIT", name)
    return re.sub(r"\d{6,8}", "N", name)


def files_of_each_kind(run: Path) -> dict[str, str]:
    """Kind -> the last file of it, below a run's folder."""
    names = sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())
    return {kind_of(name): name for name in names if not APART.match(name)}


def lasting(run: Path) -> dict[str, list[bytes]]:
    """Kind of file -> contents, of all below a run's folder that is the same whenever it is
    done."""
    found: dict[str, list[bytes]] = {}
    for path in run.rglob("*"):
        name = str(path.relative_to(run))
        if path.is_file() and not APART.match(name) and not _TIMED.fullmatch(kind_of(name)):
            found.setdefault(kind_of(name), []).append(path.read_bytes())
    return {kind: sorted(held) for kind, held in found.items()}


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """Take the second half."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def remove(path: Path) -> None:
    """Take all of it."""
    path.unlink()


Damage = Callable[[Path], None]
DAMAGES: tuple[Damage, ...] = (flip, cut, remove)


def rounds(kinds: list[str]) -> list[list[tuple[str, Damage]]]:
    """Every kind damaged once, each way as often as the others: in a round one of each node, and of
    each product, so that none is made again because of another."""
    groups: dict[str, list[str]] = {}
    for kind in kinds:
        groups.setdefault(_room(kind), []).append(kind)
    struck = {kind: DAMAGES[number % len(DAMAGES)] for number, kind in enumerate(kinds)}
    together = itertools.zip_longest(*groups.values())
    return [[(kind, struck[kind]) for kind in some if kind] for some in together]


def _room(kind: str) -> str:
    """The node or the product that a file is of; empty for the run's own."""
    return kind.removeprefix("nodes/").rpartition("/")[0].partition("/")[0]
