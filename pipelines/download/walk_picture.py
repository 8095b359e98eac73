"""A walk over the structure of a picture, from its first mark to its last, decoding nothing.

It tells that all is there: segments, scans, chunks with their sums, sizes. It does not tell that
the coded pixels are sound: only a decoder can. Written in Python, over bytes alone, so that foreign
pictures need no child process; what has a colour profile does, because whether it matters is a
library's to say.

Sources: JPEG is ITU-T T.81 (annex B), PNG is W3C PNG third edition (section 5), WebP is RFC 9649.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from gristmill.pipelines.download.strip_metadata import format_of

# In the coded data of a scan, a mark that is no stuffed byte, no restart and no fill.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD8)))
_EXIF = b"Exif\0\0"
_PNG_COLOURS = (b"iCCP", b"gAMA", b"cHRM", b"cICP")
_PNG_MODES = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


class _Wrong(Exception):
    """It is not as the format says, or ends early."""


@dataclass(frozen=True)
class Walked:
    """What a walk tells."""

    width: int
    height: int
    # Whether there is a colour profile, or what stands for one.
    has_profile: bool
    # EXIF as it lies in the file, from its byte order mark on; empty if there is none.
    exif: bytes


def walk_picture(data: bytes) -> Walked | None:
    """Walk over a JPEG, PNG or WebP. None for another format, and for one that is not just as its
    format says: decoders forgive much, so one has to look."""
    walk = {"jpg": _walk_jpeg, "png": _walk_png, "webp": _walk_webp}.get(format_of(data) or "")
    try:
        return walk(data) if walk is not None else None
    except (_Wrong, IndexError):
        return None


def _number(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise _Wrong
    return int.from_bytes(data[at : at + size])


def _walk_jpeg(data: bytes) -> Walked:
    at, size, exif, has_profile, scans = 2, (0, 0), b"", False, 0
    while True:
        if data[at] != 0xFF:
            raise _Wrong
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            break
        if marker in _STANDALONE:
            at += 2
            continue
        length = _number(data, at + 2, 2)
        end = at + 2 + length
        if end > len(data):
            raise _Wrong
        if length < 2 or marker in (0x00, 0xD8):
            raise _Wrong
        segment = data[at + 4 : end]
        if marker in _FRAMES:
            size = _jpeg_frame(segment, size)
        elif marker == 0xE1 and segment.startswith(_EXIF):
            exif = exif or segment[len(_EXIF) :]
        elif marker == 0xE2 and segment.startswith(b"ICC_PROFILE\0"):
            has_profile = True
        at = end
        if marker == 0xDA:
            found = _SCAN_END.search(data, at)
            if found is None:
                raise _Wrong
            if not size[0] or found.start() == at:
                raise _Wrong
            scans, at = scans + 1, found.start()
    if not scans:
        raise _Wrong
    return Walked(*size, has_profile, exif)


def _jpeg_frame(segment: bytes, before: tuple[int, int]) -> tuple[int, int]:
    """Width and height; a frame may stand there once."""
    height, width, parts = _number(segment, 1, 2), _number(segment, 3, 2), segment[5]
    if before[0] or not width or not height or parts not in (1, 3, 4):
        raise _Wrong
    if len(segment) != 6 + 3 * parts or segment[0] not in (8, 12):
        raise _Wrong
    return width, height


def _walk_png(data: bytes) -> Walked:
    at, size, exif, has_profile, coded = 8, (0, 0), b"", False, False
    while True:
        length = _number(data, at, 4)
        name, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise _Wrong
        body = data[at + 8 : end - 4]
        # Decoders pass over a wrong sum of what they need not know; lower case says so.
        is_needed = name[:1].isupper()
        if is_needed and zlib.crc32(data[at + 4 : end - 4]) != _number(data, end - 4, 4):
            raise _Wrong
        if (name == b"IHDR") != (at == 8):
            raise _Wrong
        if name == b"IHDR":
            size = _number(body, 0, 4), _number(body, 4, 4)
            depth, mode = body[8], body[9]
            if len(body) != 13 or not all(size) or depth not in _PNG_MODES.get(mode, ()):
                raise _Wrong
        coded |= name == b"IDAT"
        has_profile |= name in _PNG_COLOURS
        exif = body if name == b"eXIf" else exif
        at = end
        if name == b"IEND":
            break
    if not coded:
        raise _Wrong
    return Walked(*size, has_profile, exif)


def _walk_webp(data: bytes) -> Walked:
    end = 8 + int.from_bytes(data[4:8], "little")
    # The last chunk may lack its padding.
    if end > len(data) + 1:
        raise _Wrong
    at, size, exif, has_profile, coded = 12, (0, 0), b"", False, False
    while at + 8 <= min(end, len(data)):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + length > len(data):
            raise _Wrong
        body = data[at + 8 : at + 8 + length]
        if name == b"VP8X":
            size = 1 + _little(body, 4, 3), 1 + _little(body, 7, 3)
        elif name == b"VP8 ":
            if body[3:6] != b"\x9d\x01\x2a":
                raise _Wrong
            coded, own = True, (_little(body, 6, 2) & 0x3FFF, _little(body, 8, 2) & 0x3FFF)
            size = size if size[0] else own
        elif name == b"VP8L":
            if body[0] != 0x2F:
                raise _Wrong
            bits = _little(body, 1, 4)
            coded, own = True, (1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
            size = size if size[0] else own
        coded |= name == b"ANMF"
        has_profile |= name == b"ICCP"
        exif = body.removeprefix(_EXIF) if name == b"EXIF" else exif
        at += 8 + length + length % 2
    if not coded or not all(size):
        raise _Wrong
    return Walked(*size, has_profile, exif)


def _little(data: bytes, at: int, size: int) -> int:
    if at + size > len(data):
        raise _Wrong
    return int.from_bytes(data[at : at + size], "little")
