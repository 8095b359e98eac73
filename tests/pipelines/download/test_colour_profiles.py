"""Which colour profiles matter, and what they make of colours."""

from __future__ import annotations

import numpy as np
import pytest
from colour_profiles import srgb_profile, swapped_profile

from gristmill.pipelines.download.colour_profiles import apply_profile, changes_colours


@pytest.mark.parametrize(
    ("profile", "mode", "changes"),
    [
        (None, "RGB", False),
        (b"no profile", "RGB", False),
        (srgb_profile(), "RGB", False),
        (srgb_profile(), "P", False),
        (swapped_profile(), "RGB", True),
        (swapped_profile(), "RGBA", True),
        (swapped_profile(b"gXYZ", b"bXYZ"), "P", True),
        # One of colours says nothing of a grey picture, nor of one of inks.
        (swapped_profile(), "L", False),
        (swapped_profile(), "CMYK", False),
        (swapped_profile()[:300], "RGB", False),
    ],
)
def test_only_profiles_that_change_colours_matter(
    profile: bytes | None, mode: str, changes: bool
) -> None:
    assert changes_colours(profile, mode) is changes


def test_colours_move_and_greys_stay() -> None:
    pixels = np.array([[[10, 60, 200], [90, 90, 90]]], np.uint8)
    seen = apply_profile(pixels, swapped_profile())
    assert np.abs(seen.astype(int) - [[[10, 200, 60], [90, 90, 90]]]).max() <= 2
    grey = np.full((4, 5), 77, np.uint8)
    assert (apply_profile(grey, swapped_profile()) == grey).all()
