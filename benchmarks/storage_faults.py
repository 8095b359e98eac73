"""Whole small runs on storage that fails, hangs, cuts and lies at a seeded rate.

usage: python benchmarks/storage_faults.py --seeds 200

Half of the seeds lie on the local disk, half in an object store (memory). Each run must come to the
bytes of a run without faults, if need be after stops that say why. Prints one line a seed that
stopped, and a summary; exits with 1 if a seed came to anything else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("GRISTMILL_STORAGE_PATIENCE", "0.5")

from faulty_storage import Faults, make_pictures, product, run, survive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.03)
    options = parser.parse_args()
    wrong = stopped = struck = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        pictures = Path(folder) / "pictures"
        make_pictures(pictures)
        run(pictures, f"{folder}/clean/run")
        wanted = product(f"{folder}/clean/run")
        for seed in range(options.first, options.first + options.seeds):
            place = f"{folder}/{seed}" if seed % 2 else f"memory://faults-{seed}"
            faults = Faults(seed, options.rate, hang_s=1.5 if seed % 10 == 0 else 0.0)
            try:
                stops = survive(pictures, f"{place}/run", faults, wanted)
            except Exception as error:
                wrong += 1
                print(f"seed {seed}: WRONG {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            stopped += stops > 0
            struck += faults.struck
    print(
        f"{options.seeds} seeds, {struck} faults, {stopped} stopped and went on, {wrong} wrong, "
        f"{time.monotonic() - begun:.0f} s"
    )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
