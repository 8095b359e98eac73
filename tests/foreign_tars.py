"""Tars as others write them, of the pictures and captions of a shard set of ours, and what can be
wrong with their members."""

from __future__ import annotations

import io
import itertools
import json
import random
import tarfile
from collections.abc import Mapping
from pathlib import Path

Members = list[tuple[str, bytes]]

VALUES: list[object] = [
    None, True, -1, 1e300, float("inf"), "", "a cat", "\ud800", [], ["a", 1], [[1, 2], [3]], {},
    {"a": [None]}, 2**70, [2**64],
]  # fmt: skip
NAMES = (
    "caption", "captions", "caption_scores", "question", "answer", "instruction", "source_uid",
    "uid", "image_codes", "image_latents", "image_codec", "fault", "_size",
)  # fmt: skip


def members_of(shards: str) -> list[Members]:
    """Pictures and captions of each tar of a set, named by number: 0000.jpg, 0000.txt."""
    found: list[Members] = []
    count = 0
    for path in sorted(Path(shards).glob("train/*.tar")):
        numbers: dict[str, str] = {}
        found.append([])
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, ending = member.name.partition(".")
                if ending in ("jpg", "txt"):
                    if key not in numbers:
                        numbers[key] = f"{count:04d}"
                        count += 1
                    data = tar.extractfile(member)
                    assert data is not None
                    found[-1].append((f"{numbers[key]}.{ending}", data.read()))
    return found


def write_tar(path: Path, members: Members) -> None:
    """A plain tar of these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_tars(
    folder: Path, tars: list[Members], changes: Mapping[str, Members | None] | None = None
) -> str:
    """A folder of such tars; `changes`: what stands in the place of a member, if anything."""
    for number, members in enumerate(tars):
        changed: Members = []
        for name, data in members:
            instead = (changes or {}).get(name, [(name, data)])
            changed += instead or []
        write_tar(folder / f"{number:05d}.tar", changed)
    return str(folder)


def mutated(name: str, data: bytes, rng: random.Random) -> Members:
    """What stands in the place of a member: fewer bytes or others, another name, a sidecar of odd
    values, nothing."""
    stem, _, ending = name.partition(".")
    kind = rng.randrange(9)
    if kind == 0:
        return [(name, data[: rng.randrange(len(data))])]
    if kind == 1:
        return [(name, b"")]
    if kind == 2:
        return []
    if kind == 3:
        other = rng.choice(
            [f"x/{name}", f".{name}", stem, f"{stem}.{ending}.{ending}", "a b.Ü.jpg"]
        )
        return [(other, data)]
    if kind == 4:
        return [(name, data), (name, data)]
    if kind == 5:
        flipped = bytearray(data)
        for _ in range(20):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return [(name, bytes(flipped))]
    if kind == 6:
        return [(f"{stem}.{rng.choice(['txt', 'jpg', 'png', 'json', 'txt.gz', 'cls'])}", data)]
    facts = {key: rng.choice(VALUES) for key in rng.sample(NAMES, 3)}
    said = json.dumps(facts).encode()
    if kind == 7:
        said = said[: rng.randrange(len(said) + 1)]
    return (
        [(name, data), (f"{stem}.json", said)] if rng.random() < 0.5 else [(f"{stem}.json", said)]
    )


def damaged(members: Members, rng: random.Random, rate: float) -> Members:
    """Members of which a share is mutated."""
    return list(
        itertools.chain.from_iterable(
            mutated(*member, rng) if rng.random() < rate else [member] for member in members
        )
    )


def spoilt_picture(name: str, data: bytes, rng: random.Random) -> Members:
    """A picture that does not decode, under the name that it had."""
    spoilt = [b"", b"\0" * len(data), rng.randbytes(len(data)), data[: len(data) // 2]]
    return [(name, rng.choice(spoilt))]
