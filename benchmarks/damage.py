"""Every kind of file of a finished run flipped, cut and gone, each alone: found, and made again.

    python benchmarks/damage.py

A small run with two products and a tombstone. `verify` must find each damage, and `repair` must
bring back the same bytes of all that is the same whenever it is done. What does not hold is named.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ.setdefault("GRISTMILL_STORAGE_PATIENCE", "0")

from run_damage import DAMAGES, Damage, files_of_each_kind, lasting
from run_world import make_home, options, run_here, wide_dag

from gristmill.dags.engine.progress import make_progress
from gristmill.dags.runs.forget import forget
from gristmill.dags.runs.repair import repair
from gristmill.dags.runs.verify import verify_run
from gristmill.errors import GristmillError
from gristmill.pipelines.shards.reader import ShardSet


def problem_of(run: Path, kind: str, damage: Damage, before: dict[str, list[bytes]]) -> str:
    """Damage a file and repair the run; what did not hold, if anything."""
    damage(run / files_of_each_kind(run)[kind])
    try:
        found = verify_run(str(run))
    except GristmillError as error:
        found = [str(error)]
    if not found:
        return "verify finds nothing"
    with contextlib.chdir(run.parent), make_progress(None, True, log=None) as progress:
        repaired = repair(str(run), options(), progress)
    if not repaired.found or repaired.left or repaired.otherwise:
        return f"repair says {repaired}"
    after = lasting(run)
    other = sorted(one for one in {*before, *after} if before.get(one) != after.get(one))
    return f"other bytes: {other}" if other else ""


def main() -> None:
    wrong, tried, begun = 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        home, kept = Path(name) / "home", Path(name) / "kept"
        run = home / "run"
        with contextlib.redirect_stderr(io.StringIO()):
            make_home(home, wide_dag())
            forget(str(run), [("uid", ShardSet(str(run / "shards"))[0].uid)])
            run_here(home, wide_dag())
        shutil.copytree(home, kept)
        before = lasting(run)
        kinds = list(files_of_each_kind(run))
        for kind in kinds:
            for damage in DAMAGES:
                tried += 1
                with contextlib.redirect_stderr(io.StringIO()):
                    problem = problem_of(run, kind, damage, before)
                if problem:
                    wrong += 1
                    print(f"{kind}, {damage.__name__}: {problem}", flush=True)
                    shutil.rmtree(home)
                    shutil.copytree(kept, home)
    print(
        f"{len(kinds)} kinds of files, {tried} damages, {wrong} wrong, "
        f"{time.monotonic() - begun:.0f} s"
    )
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
