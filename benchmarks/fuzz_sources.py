"""Damaged sources by the thousand: no traceback, no hang, no silent shift.

    python benchmarks/fuzz_sources.py [--files 2000] [--videos 300] [--seed 0]

Each file is CSV, TSV, JSON lines, Parquet, tar or COCO with seeded damage (tests/source_fuzz.py),
and what a reader makes of it is counted. Videos, mp4 to MPEG-TS (tests/video_fuzz.py), go the whole
way in supervised children, sixty a run: facts, shots, clips, scores, shards; the ledger must add up
with the files, every clip must decode to what its row says, and sound videos among the damaged must
come out whole. The tests share both. A seed that fails is named, and `--files 1 --videos 0 --seed
N`, or `--files 0 --videos 1 --seed N`, tries it again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from source_fuzz import fuzz
from video_fuzz import fuzz_videos

# Videos of one run.
EACH = 60


def run_files(seeds: Sequence[int], outcomes: collections.Counter[str]) -> int:
    """Read a file for each seed; returns how many failed."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in seeds:
            try:
                outcomes[fuzz(seed, Path(folder))] += 1
            except Exception:
                failed += 1
                print(f"seed {seed}:\n{traceback.format_exc(limit=-4)}", flush=True)
    return failed


def run_videos(seeds: Sequence[int], outcomes: collections.Counter[str]) -> int:
    """Run a video for each seed; returns how many failed. Where a run fails, its videos are run
    one by one."""
    failed = 0
    for first in range(0, len(seeds), EACH):
        some = seeds[first : first + EACH]
        try:
            with (
                tempfile.TemporaryDirectory() as folder,
                contextlib.redirect_stderr(io.StringIO()),
            ):
                outcomes += fuzz_videos(some, Path(folder))
        except Exception:
            if len(some) == 1:
                print(f"video of seed {some[0]}:\n{traceback.format_exc(limit=-4)}", flush=True)
                failed += 1
                continue
            print(f"videos {some[0]} to {some[-1]}:\n{traceback.format_exc(limit=-4)}", flush=True)
            alone = sum(run_videos([seed], outcomes) for seed in some)
            # What none does by itself, several did together.
            failed += alone or 1
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    failed = run_files(range(options.seed, options.seed + options.files), outcomes)
    failed += run_videos(range(options.seed, options.seed + options.videos), outcomes)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6} {outcome}")
    print(f"{failed} of {options.files + options.videos} files failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
