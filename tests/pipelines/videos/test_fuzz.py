"""Damaged videos among sound ones, from files to shards of clips in supervised children."""

from __future__ import annotations

from pathlib import Path

from video_fuzz import CONTAINERS, fuzz_videos


def test_damaged_videos_come_out_as_clips_or_with_their_reason(tmp_path: Path) -> None:
    # 299: a clock that jumps ahead, so that frames are shown at a time that was.
    outcomes = fuzz_videos([*range(30), 299], tmp_path)
    assert sum(outcomes.values()) == 31
    assert {f"{ending}: clips" for ending in CONTAINERS} <= set(outcomes)
    # Damage that leaves nothing to cut is there, too.
    assert sum(count for what, count in outcomes.items() if "clips" not in what) > 3
