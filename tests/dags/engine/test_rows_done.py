"""Progress by rows, within parts too, from stages, workers and clusters; nothing is written for
it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from toy_stages import ToyBrightness, ToyDraw, ToyRows

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import LiveProgress, Progress
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines import heartbeat
from gristmill.pipelines.child import Child


class Heard(Progress):
    """Keeps what it is told of rows within parts."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, list[tuple[int, int, int]]] = {}

    def within(self, node: str, part: int, done: int, of: int, /) -> None:
        super().within(node, part, done, of)
        self.rows.setdefault(node, []).append((part, done, of))


@pytest.mark.parametrize("isolate", [True, False])
def test_rows_of_maps_and_scores_are_told_within_a_part(isolate: bool, tmp_path: Path) -> None:
    from gristmill.dags.engine.supervision import Supervision

    nodes = {
        "rows": Node(ToyRows(rows=300, chunk=300)),
        "draw": Node(ToyDraw(kills=("picture 7",) if isolate else ()), ("rows",)),
        "bright": Node(ToyBrightness(), ("draw",)),
    }
    progress = Heard()
    options = RunOptions(runner="local", supervision=Supervision(isolate=isolate))
    execute(Dag("toy", nodes, part_rows=1_000), str(tmp_path), options, progress)
    drawn = [done for _, done, of in progress.rows["draw"] if of == 270]
    # A row that kills is done with, too.
    assert len(drawn) == len(progress.rows["draw"]) >= 269 and drawn[-1] == 270
    # Blocks of 256 rows, of those that were drawn.
    last = 270 - isolate
    assert progress.rows["bright"][-2:] == [(0, 256, last), (0, last, last)]


class Beating:
    """Says how far it is while it works."""

    def work(self) -> str:
        heartbeat._EVERY_S = 0.0
        heartbeat.begin("work")
        for done in range(1, 4):
            heartbeat.beat(done, 4)
        return "done"


def test_a_child_s_heartbeats_come_before_its_answer() -> None:
    child, heard = Child(Beating), []
    child.on_beat = heard.append
    assert child.call("work", deadline_s=60) == "done"
    assert heard == [("work", 0.25), ("work", 0.5), ("work", 0.75)]
    child.close()


def test_totals_rates_and_what_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("gristmill.dags.engine.progress.time.monotonic", lambda: now[0])
    progress = Progress()
    progress.start("draw", 4, 400)
    state = progress._nodes["draw"]
    now[0] = 10.0
    progress.within("draw", 0, 40, 100)
    # Ten seconds until the first rows: the workers started meanwhile, which is no pace.
    assert state.line == "part=0/4 rows=40/400"
    now[0] = 20.0
    progress.within("draw", 1, 10, 80)
    assert state.line == "part=0/4 rows=50/360 rows/s=1 left=310s"
    assert "draw: part=0/4 rows=50/360 rows/s=1 left=310s" in progress._lines[-1]
    assert (state.rows_now, state.total, state.parts_now) == (50, 360, 0.525)
    progress.advance("draw", rows=100, kept=90, part=0)
    progress.within("draw", 0, 90, 100)
    assert (state.rows_now, state.total) == (110, 360)
    assert state.rate == 7.0


def test_bars_move_by_rows() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    with LiveProgress(console) as progress:
        progress.start("draw", 1, 115)
        progress.within("draw", 0, 23, 115)
        progress._bars.refresh()
        assert "23/115 rows" in written.getvalue()
        assert progress._bars.tasks[0].percentage == pytest.approx(20)
        progress.start("keep:verdicts", 3, None)
        progress.advance("keep:verdicts")
        progress._bars.refresh()
        assert "1/3" in written.getvalue()
