"""Whole small runs on a storage that fails, cuts and lies: the same bytes, or a stop that says why
and goes on to the same bytes. `benchmarks/storage_faults.py` does it for hundreds of seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_storage import Faults, make_pictures, product, run, survive

from gristmill.pipelines.patience import PATIENCE


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("clean")
    make_pictures(folder / "pictures")
    run(folder / "pictures", str(folder / "run"))
    return folder / "pictures", product(str(folder / "run"))


@pytest.mark.parametrize("seed", range(12))
def test_the_same_bytes_in_spite_of_all(
    seed: int,
    clean: tuple[Path, dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nobody waits here: a storage that is asked thrice has healed, or the run stops and goes on.
    monkeypatch.setenv(PATIENCE, "0")
    pictures, wanted = clean
    out = str(tmp_path / "run") if seed % 2 else f"memory://faults-{tmp_path.name}/run"
    faults = Faults(seed, rate=0.03)
    stops = survive(pictures, out, faults, wanted)
    assert faults.struck > 3 and stops >= (seed % 3 == 0)
