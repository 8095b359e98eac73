"""Some rows of a source, and what all of them would come to."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_world import ROWS, options, small_dag
from toy_run import toy_dag

from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag
from gristmill.dags.runs.pilot import Pilot, render_pilot, run_pilot
from gristmill.errors import ConfigurationError


def pilot(dag: Dag, out: Path, rows: int, total: int | None = None) -> Pilot:
    with make_progress(None, True, log=None) as progress:
        return run_pilot(dag, str(out), rows, options(), progress, total)


def test_the_estimate_scales_with_the_source(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    found = pilot(small_dag(), tmp_path / "run", 6)
    # Numbers 0 and 1 are dark; those from 6 on were not looked at.
    assert (found.sample, found.total, found.kept) == (6, ROWS, 4)
    costs = {cost.node: cost for cost in found.nodes}
    assert list(costs) == ["source", "download", "light", "keep", "shards"]
    assert costs["light"].rows_in == 6 and costs["light"].rows == ROWS
    assert costs["keep"].kept == pytest.approx(4 / 6)
    assert costs["shards"].rows_in == 4 and costs["shards"].rows == 8
    # Ten times the rows: ten times the bytes and the time, of the same pilot.
    more = {cost.node: cost for cost in pilot(small_dag(), tmp_path / "run", 6, 10 * ROWS).nodes}
    for name, cost in costs.items():
        assert more[name].rows == 10 * cost.rows
        assert more[name].bytes == pytest.approx(10 * cost.bytes, rel=0.1)
        assert cost.bytes == pytest.approx(2 * cost.bytes_per_row * cost.rows_in)
    # The run itself has not begun.
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["pilot"]
    assert f"6 rows were run, 4 kept (66.7%). Whole source: about {ROWS} rows" in _text(found)


def test_what_cannot_be_sampled_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="give at least 1"):
        pilot(small_dag(), tmp_path / "run", 0)
    with pytest.raises(ConfigurationError, match=r"ToyRows cannot be sampled; .*--limit 5"):
        pilot(toy_dag(), tmp_path / "run", 5)
    assert not (tmp_path / "run").exists()


def _text(found: Pilot) -> str:
    from rich.console import Console

    console = Console(width=300)
    with console.capture() as said:
        console.print(render_pilot(found, small_dag()))
    return said.get()
