"""Damaged sources by the thousand: no traceback, no hang, no silent shift.

    python benchmarks/fuzz_sources.py [--files 2000] [--seed 0]

Each file is CSV, TSV, JSON lines, Parquet, tar or COCO with seeded damage (tests/source_fuzz.py,
which the tests share); what a reader makes of it is counted. A seed that fails is named, and
`--files 1 --seed N` tries it again.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from source_fuzz import fuzz


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes: collections.Counter[str] = collections.Counter()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seed, options.seed + options.files):
            try:
                outcomes[fuzz(seed, Path(folder))] += 1
            except Exception:
                failed += 1
                print(f"seed {seed}:\n{traceback.format_exc(limit=-4)}", flush=True)
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:6} {outcome}")
    print(f"{failed} of {options.files} files failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
