"""Samples of tars of anybody: how members are named, which belong together, and what is wrong with
them. One rule for all who read tars, that of webdataset where it has one."""

from __future__ import annotations

import lzma
import posixpath
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Generic, Protocol, TypeVar

from gristmill.pipelines.locate import unpack
from gristmill.pipelines.patience import is_of_content

NOT_A_TAR = "not a tar"
BROKEN_TAR = "broken tar"
TRUNCATED_TAR = "truncated tar"
NOT_ADJACENT = "members not side by side"
REPEATED_MEMBER = "two members of one name"
SEVERAL_PICTURES = "several pictures in one sample"
DEAD_LINK = "link to no member"
NO_PICTURE = "no image member"
DOT_FILES = "dot files or names without ending"

TAR_ENDINGS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")

# Endings of members that hold a caption, the first that is there counts; and of facts.
CAPTION_ENDINGS = ("txt", "caption", "text", "cap")
FACT_ENDING = "json"

# Folders and a name without dot, then all endings (webdataset's `base_plus_ext`).
_NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]*)", re.DOTALL)
# What else foreign bytes make of the standard library's readers.
_UNREADABLE = (
    tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, ValueError, OverflowError,
)  # fmt: skip
# Samples that are held back to see whether their keys come again.
_HELD = 100_000


def split_name(name: str) -> tuple[str, str] | None:
    """Key and endings (in lower case) of a member; None for dot files and names without ending."""
    found = _NAME.fullmatch(name.removeprefix("./"))
    return (found[1], found[2].lower()) if found else None


class _Header(tarfile.TarInfo):
    """Tarfile takes a header that it cannot read for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise EOFError("no empty block at its end") from error
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError("no header where one should be") from error


@dataclass(frozen=True)
class TarMember:
    """A file of a tar. A link stands for the member that it names."""

    name: str
    key: str
    extension: str
    # Among the regular files of the tar, from 0.
    number: int
    # Where its bytes lie, in the unpacked tar.
    offset: int
    size: int
    # Name of the member that it is a link to.
    target: str = ""


class TarMembers:
    """The files of a tar in their order, dot files and names without ending left out.

    What is wrong with the tar ends the iteration and is in `problem`; the storage's own errors are
    raised.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.compressed = False
        # Files that belong to no sample: dot files, and names without ending.
        self.skipped = 0
        self.problem: str | None = None
        self._file, self._size = file, 0

    def read(self, is_read: Callable[[str], bool]) -> Iterator[tuple[TarMember, bytes | None]]:
        """Members, with the bytes of those whose ending is to be read. A link that leads nowhere
        has number -1 and no bytes; one in a compressed tar has none either."""
        count = 0
        try:
            for member, data in self._members(is_read):
                count += 1
                yield member, data
        except EOFError:
            self.problem = TRUNCATED_TAR
        except _UNREADABLE:
            self.problem = BROKEN_TAR if count or self.skipped else NOT_A_TAR
        except OSError as error:
            if not is_of_content(error):
                raise
            self.problem = BROKEN_TAR if count or self.skipped else NOT_A_TAR

    def _members(self, is_read: Callable[[str], bool]) -> Iterator[tuple[TarMember, bytes | None]]:
        places: dict[str, tuple[int, int, int]] = {}
        with self._opened() as tar:
            number = -1
            for info in tar:
                # Tarfile would remember all of them.
                tar.members = []  # type: ignore[attr-defined]
                target = _target(info)
                if info.isreg():
                    number += 1
                    if not self.compressed and info.offset_data + info.size > self._size:
                        raise EOFError(f"{info.name} ends after the file does")
                    places[posixpath.normpath(info.name)] = number, info.offset_data, info.size
                elif not target:
                    continue
                name = split_name(info.name)
                if name is None:
                    self.skipped += 1
                    continue
                place = places.get(target or posixpath.normpath(info.name), (-1, 0, 0))
                member = TarMember(info.name, *name, *place, target)
                yield member, self._bytes(tar, info, member) if is_read(name[1]) else None

    def _bytes(
        self, tar: tarfile.TarFile, info: tarfile.TarInfo, member: TarMember
    ) -> bytes | None:
        if self.compressed:
            opened = None if member.target else tar.extractfile(info)
            data = opened.read() if opened else None
        elif member.number < 0:
            data = None
        else:
            self._file.seek(member.offset)
            data = self._file.read(member.size)
        if data is not None and len(data) != member.size:
            raise EOFError(f"{info.name} ends after the file does")
        return data

    def _opened(self) -> tarfile.TarFile:
        unpacked = unpack(self._file)
        if unpacked is not None:
            self.compressed = True
            return tarfile.open(fileobj=unpacked, mode="r|", tarinfo=_Header)
        self._size = self._file.seek(0, 2)
        self._file.seek(0)
        return tarfile.open(fileobj=self._file, mode="r:", tarinfo=_Header)


def _target(info: tarfile.TarInfo) -> str:
    """Name of the member that a link leads to; empty for what is no link."""
    if info.islnk():
        return posixpath.normpath(info.linkname)
    if info.issym():
        return posixpath.normpath(posixpath.join(posixpath.dirname(info.name), info.linkname))
    return ""


class Keyed(Protocol):
    """A member as a reader keeps it."""

    @property
    def key(self) -> str:
        """Name without endings."""

    @property
    def extension(self) -> str:
        """All endings, in lower case."""


M = TypeVar("M", bound=Keyed)


@dataclass
class TarSample(Generic[M]):
    """Members that belong together, by their endings; or the reason why they cannot be used."""

    key: str
    members: dict[str, M] = field(default_factory=dict)
    # Ending of the picture (or clip); None if there is none.
    picture: str | None = None
    reason: str | None = None

    def captions(self) -> list[str]:
        """Endings of the members that hold captions: one, by the order of `CAPTION_ENDINGS`, or
        all that have more before it (`en.txt`, `de.txt`)."""
        found = [name for name in self.members if kind_of_text(name) in CAPTION_ENDINGS]
        plain = [name for name in found if not _stem_of_text(name)]
        plain.sort(key=lambda name: CAPTION_ENDINGS.index(str(kind_of_text(name))))
        return plain[:1] or found


def kind_of_text(extension: str) -> str | None:
    """`json` or one of `CAPTION_ENDINGS` for a member of text (`.txt.gz` too), else None."""
    last = extension.removesuffix(".gz").rpartition(".")[2]
    return last if last in (*CAPTION_ENDINGS, FACT_ENDING) else None


def samples_of(members: Iterable[M], is_wanted: Callable[[str], bool]) -> Iterator[TarSample[M]]:
    """Samples of a tar in order; `is_wanted` tells a picture (or clip) by its ending.

    Members of a sample lie side by side. Where a key comes again with other members, each piece is
    a sample with that reason: which of them belong together cannot be told.
    """
    flushed: set[str] = set()
    held: list[tuple[str, list[M]]] = []
    for member in members:
        if held and held[-1][0] == member.key:
            held[-1][1].append(member)
            continue
        if len(held) >= _HELD:
            yield from _settled(held, flushed, is_wanted)
            flushed |= {key for key, _ in held}
            held = []
        held.append((member.key, [member]))
    yield from _settled(held, flushed, is_wanted)


def _settled(
    groups: Sequence[tuple[str, list[M]]], before: set[str], is_wanted: Callable[[str], bool]
) -> Iterator[TarSample[M]]:
    endings: dict[str, set[frozenset[str]]] = {}
    for key, members in groups:
        endings.setdefault(key, set()).add(frozenset(m.extension for m in members))
    for key, members in groups:
        whole = any(is_wanted(m.extension) for m in members)
        if len(endings[key]) > 1 or (key in before and not whole):
            yield from _failed(key, members, NOT_ADJACENT, is_wanted)
        else:
            yield from _samples(key, members, is_wanted)


def _samples(
    key: str, members: Sequence[M], is_wanted: Callable[[str], bool]
) -> Iterator[TarSample[M]]:
    """One sample of a group, or one for each picture that has a text of its own."""
    by_ending = {member.extension: member for member in members}
    if len(by_ending) < len(members):
        yield from _failed(key, members, REPEATED_MEMBER, is_wanted)
        return
    pictures = [ending for ending in by_ending if is_wanted(ending)]
    texts = [ending for ending in by_ending if kind_of_text(ending)]
    stems = {picture: picture.rpartition(".")[0] for picture in pictures}
    own = {
        picture: [text for text in texts if _stem_of_text(text) == stem]
        for picture, stem in stems.items()
    }
    # A text each, or names that have no text and differ before their ending.
    each = all(own.values()) or (all(stems.values()) and len(pictures) == len(members))
    apart = len(set(stems.values())) == len(pictures) and any(stems.values())
    if each and apart:
        taken = {*pictures, *(text for found in own.values() for text in found)}
        shared = [ending for ending in by_ending if ending not in taken]
        for picture, stem in stems.items():
            endings = [picture, *own[picture], *shared]
            prefix = f"{stem}." if stem else ""
            names = {ending.removeprefix(prefix): by_ending[ending] for ending in endings}
            name = f"{key}.{stem}" if stem else key
            yield TarSample(name, names, picture.rpartition(".")[2])
        return
    plain = [picture for picture in pictures if not stems[picture]]
    if len(pictures) > 1 and len(plain) != 1:
        yield from _failed(key, members, SEVERAL_PICTURES, is_wanted)
        return
    chosen = plain[0] if plain else (pictures[0] if pictures else None)
    yield TarSample(key, by_ending, chosen)


def _stem_of_text(extension: str) -> str:
    return extension.removesuffix(".gz").rpartition(".")[0]


def _failed(
    key: str, members: Sequence[M], reason: str, is_wanted: Callable[[str], bool]
) -> Iterator[TarSample[M]]:
    """The reason, once for each picture of a group, or once."""
    named = {member.extension: member for member in members}
    pictures: list[str | None] = [m.extension for m in members if is_wanted(m.extension)]
    for picture in pictures or [None]:
        yield TarSample(key, named, picture, reason)
