"""The colours that a PNG means by its gamma and primaries (gAMA, cHRM), as an ICC profile.

W3C, PNG Specification, third edition, 11.3.2 and 13.13. Browsers take a file gamma for one relative
to a display of 2.2, so that 0.45455, which most writers put beside sRGB, changes nothing; so does
this. Primaries count where there is a gamma beside them, and white is brought to that of sRGB.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DISPLAY_GAMMA = 2.2
_STEPS = 1024
# x, y of white, red, green and blue, as cHRM has them.
_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# White of ICC's connection space, and cones of Bradford's adaptation to it (ICC.1:2010, annex E).
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
# What gammas and coordinates may be: others are no colours, or make all of them one.
_GAMMAS = (0.05, 5.0)
Floats = NDArray[np.float64]


def profile_of_png(info: Mapping[Any, Any], *, grey: bool) -> bytes | None:
    """An ICC profile that says what gAMA and cHRM say, from what Pillow tells of a PNG; None where
    there is no gamma, where sRGB is said to hold, and for numbers that mean nothing.

    `grey`: whether the picture has one colour.
    """
    gamma = info.get("gamma")
    if "srgb" in info or not isinstance(gamma, float) or not _GAMMAS[0] <= gamma <= _GAMMAS[1]:
        return None
    curve = _curve(1 / (gamma * _DISPLAY_GAMMA))
    if grey:
        return _profile(b"GRAY", {b"wtpt": _xyz(_D50), b"kTRC": curve})
    primaries = _primaries(info.get("chromaticity", _SRGB))
    if primaries is None:
        return None
    tags = {b"wtpt": _xyz(_D50)}
    for name, colour in zip((b"r", b"g", b"b"), primaries.T, strict=True):
        tags |= {name + b"XYZ": _xyz(colour), name + b"TRC": curve}
    return _profile(b"RGB ", tags)


def _primaries(told: Sequence[float]) -> Floats | None:
    """XYZ of red, green and blue at full light, a column each, under D50."""
    if len(told) != 8:
        return None
    x, y = np.reshape(told, (4, 2)).T
    if (y <= 0).any() or (x < 0).any() or (x + y > 1).any():
        return None
    xyz = np.stack([x / y, np.ones(4), (1 - x - y) / y])
    white, colours = xyz[:, 0], xyz[:, 1:]
    if abs(np.linalg.det(colours)) < 1e-6:
        return None
    cones = np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white))
    adapted = np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD
    found: Floats = adapted @ (colours * np.linalg.solve(colours, white))
    # What ICC's numbers hold.
    return found if (np.abs(found) < 2).all() else None


def _curve(exponent: float) -> bytes:
    """Light of stored values: sRGB's, of what a display of 2.2 would be sent."""
    sent = np.linspace(0, 1, _STEPS) ** exponent
    light = np.where(sent <= 0.04045, sent / 12.92, ((sent + 0.055) / 1.055) ** 2.4)
    values = bytes(np.rint(light * 65535).astype(">u2").tobytes())
    return struct.pack(">4sII", b"curv", 0, _STEPS) + values


def _xyz(colour: Floats) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *(round(float(value) * 65536) for value in colour))


def _profile(space: bytes, tags: Mapping[bytes, bytes]) -> bytes:
    """A display profile of ICC version 2.1."""
    head = 128 + 4 + 12 * len(tags)
    table, data, places = b"", b"", dict[bytes, int]()
    for name, value in tags.items():
        if value not in places:
            places[value] = head + len(data)
            data += value + bytes(-len(value) % 4)
        table += struct.pack(">4sII", name, places[value], len(value))
    white = _xyz(_D50)[8:]
    begin = struct.pack(
        ">I4xI4s4s4s6H4s28x12s48x", head + len(data), 0x02100000, b"mntr", space, b"XYZ ",
        2000, 1, 1, 0, 0, 0, b"acsp", white,
    )  # fmt: skip
    return begin + struct.pack(">I", len(tags)) + table + data
