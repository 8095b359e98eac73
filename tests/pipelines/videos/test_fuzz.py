"""Damaged videos among sound ones, from files to shards of clips in supervised children."""

from __future__ import annotations

from pathlib import Path

from video_fuzz import CONTAINERS, fuzz_videos


def test_damaged_videos_come_out_as_clips_or_with_their_reason(tmp_path: Path) -> None:
    outcomes = fuzz_videos(range(30), tmp_path)
    assert sum(outcomes.values()) == 30
    assert {f"{ending}: clips" for ending in CONTAINERS} <= set(outcomes)
    # Damage that leaves nothing to cut is there, too.
    assert sum(count for what, count in outcomes.items() if "clips" not in what) > 3
