"""Pictures with colour profiles, made of the one that Little CMS has: what they mean is known."""

from __future__ import annotations

from PIL import ImageCms


def srgb_profile() -> bytes:
    """sRGB, as Little CMS writes it."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile(first: bytes = b"rXYZ", second: bytes = b"gXYZ") -> bytes:
    """sRGB with two primaries exchanged: what it calls red is green."""
    data = srgb_profile()
    place = data.index(first), data.index(second)
    table = bytearray(data)
    table[place[0] : place[0] + 4], table[place[1] : place[1] + 4] = second, first
    return bytes(table)
