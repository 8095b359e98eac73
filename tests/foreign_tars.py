"""Tars as others write them, of the pictures and captions of a shard set of ours."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

Members = list[tuple[str, bytes]]


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
