"""Damaged sources of every format: rows with reasons or an error of ours, never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from source_fuzz import MAKERS, fuzz

EACH = 5


@pytest.mark.parametrize("start", range(len(MAKERS)), ids=list(MAKERS))
def test_damaged_files_are_read_or_refused_in_words(start: int, tmp_path: Path) -> None:
    seeds = range(start, start + EACH * len(MAKERS), len(MAKERS))
    outcomes = [fuzz(seed, tmp_path) for seed in seeds]
    assert all(outcome.startswith(list(MAKERS)[start]) for outcome in outcomes)
