"""Removes EXIF, GPS, ICC, XMP and comments from JPEG, PNG and WebP without touching a pixel.

A colour profile is kept if asked for: without it the colours would be others.
"""

from __future__ import annotations

import struct

_PNG_MARK = b"\x89PNG\r\n\x1a\n"
# Chunks that decide how pixels look; all else is about the file.
_PNG_KEPT = {
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"cICP",
    b"acTL", b"fcTL", b"fdAT",
}  # fmt: skip
_WEBP_DROPPED = {b"EXIF", b"XMP ", b"ICCP"}
# VP8X flags: ICC profile, EXIF, XMP.
_WEBP_PROFILE = 0x20
_WEBP_FLAGS = _WEBP_PROFILE | 0x08 | 0x04
# How an APP2 segment with a piece of a profile begins.
_JPEG_PROFILE = b"ICC_PROFILE\0"


def format_of(data: bytes) -> str | None:
    """jpg, png, webp, gif, bmp, tif ... by the first bytes; None if they are no picture's."""
    if data[:3] == b"\xff\xd8\xff":
        return "jpg"
    if data[:8] == _PNG_MARK:
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:2] == b"BM":
        return "bmp"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tif"
    if data[4:8] == b"ftyp":
        # The brand, and those that it is compatible with: phones write mif1 before either.
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(data[3], 64), 4))}
        if brands & {b"avif", b"avis"}:
            return "avif"
        if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}:
            return "heic"
    if data[:10] == b"#?RADIANCE" or data[:6] == b"#?RGBE":
        return "hdr"
    return None


def strip_metadata(data: bytes, *, keep_profile: bool = False) -> bytes | None:
    """The same pixels without metadata; None for a format or a file this cannot be done for."""
    kind = format_of(data)
    try:
        if kind == "jpg":
            return _strip_jpeg(data, keep_profile)
        if kind == "png":
            return _strip_png(data, _PNG_KEPT | ({b"iCCP"} if keep_profile else set()))
        if kind == "webp":
            return _strip_webp(data, keep_profile)
    except (IndexError, struct.error, ValueError):
        return None
    return None


def _strip_jpeg(data: bytes, keep_profile: bool) -> bytes:
    """Keeps JFIF (APP0) and Adobe (APP14: it says how colours are coded); ends at the end mark."""
    kept = [data[:2]]
    at = 2
    while True:
        if data[at] != 0xFF:
            raise ValueError("no marker")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        size = 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
        if marker == 0xDA:
            break
        is_about_the_file = marker == 0xFE or 0xE1 <= marker <= 0xED or marker == 0xEF
        is_profile = marker == 0xE2 and data[at + 4 : at + 16] == _JPEG_PROFILE
        if not is_about_the_file or (keep_profile and is_profile):
            kept.append(data[at : at + size])
        at += size
    end = data.find(b"\xff\xd9", at)
    last = data.rfind(b"\xff\xd9")
    # A picture ends at its first end mark; what follows may be a second picture, or anything.
    if end < 0:
        raise ValueError("no end mark")
    kept.append(data[at : end + 2] if last != end else data[at : last + 2])
    return b"".join(kept)


def _strip_png(data: bytes, names: set[bytes]) -> bytes:
    kept = [data[:8]]
    at = 8
    while at < len(data):
        size = struct.unpack(">I", data[at : at + 4])[0]
        name = data[at + 4 : at + 8]
        if at + 12 + size > len(data):
            raise ValueError("truncated chunk")
        if name in names:
            kept.append(data[at : at + 12 + size])
        at += 12 + size
        if name == b"IEND":
            return b"".join(kept)
    raise ValueError("no end")


def _strip_webp(data: bytes, keep_profile: bool) -> bytes:
    kept = []
    dropped, flags = _WEBP_DROPPED, _WEBP_FLAGS
    if keep_profile:
        dropped, flags = dropped - {b"ICCP"}, flags & ~_WEBP_PROFILE
    end = 8 + struct.unpack("<I", data[4:8])[0]
    at = 12
    while at + 8 <= min(end, len(data)):
        name = data[at : at + 4]
        size = struct.unpack("<I", data[at + 4 : at + 8])[0]
        chunk = data[at : at + 8 + size + size % 2]
        if name == b"VP8X":
            chunk = chunk[:8] + bytes([chunk[8] & ~flags & 0xFF]) + chunk[9:]
        if name not in dropped:
            kept.append(chunk)
        at += 8 + size + size % 2
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def is_truncated(data: bytes) -> bool | None:
    """Whether a JPEG, PNG or WebP ends before its end; None where only decoding can tell."""
    kind = format_of(data)
    if kind == "jpg":
        return None if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda") else False
    if kind == "png":
        return None if b"IEND" not in data[-4096:] and b"IEND" not in data else False
    if kind == "webp" and len(data) >= 8:
        return bool(8 + struct.unpack("<I", data[4:8])[0] > len(data) + 1)
    return False
