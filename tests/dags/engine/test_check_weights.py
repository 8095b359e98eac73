"""Whether files and weights are there is asked of the nodes that load some and have work to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from toy_stages import ToyBrightness, ToyDraw, ToyRows

from gristmill.dags.engine.check_weights import WeightsCheck, unfinished_loaders
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.lay_out import lay_out
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.errors import MissingWeightsError
from gristmill.pipelines.stage import Score


@dataclass(frozen=True, kw_only=True)
class Weighs(Score):
    """Loads a file, and asks a place for weights."""

    file: str
    missing: bool = False

    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("weight", pa.float32())])

    def files(self) -> tuple[str, ...]:
        return (self.file,)

    def check_weights(self) -> None:
        if self.missing:
            raise MissingWeightsError("no weights here")

    def score(self, table: pa.Table, images: object) -> pa.Table:
        return pa.table([[1.0] * len(table)], schema=self.writes())


def dag(stage: Weighs) -> Dag:
    return Dag(
        "weighs",
        {
            "rows": Node(ToyRows(rows=4)),
            "draw": Node(ToyDraw(), ("rows",)),
            "bright": Node(ToyBrightness(), ("draw",)),
            "weigh": Node(stage, ("draw",)),
        },
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "weights").write_text("here")
    return str(tmp_path / "weights")


def test_what_is_missing_is_named_with_its_node(file: str) -> None:
    assert WeightsCheck(dag(Weighs(file=file)), ("weigh",))() == ""
    said = WeightsCheck(dag(Weighs(file=file + "2")), ("weigh",))()
    assert "weigh" in said and f"{file}2 does not exist on " in said
    assert "no weights here" in WeightsCheck(dag(Weighs(file=file, missing=True)), ("weigh",))()


def test_only_nodes_that_load_and_have_work_are_asked(file: str, tmp_path: Path) -> None:
    chosen, out = dag(Weighs(file=file)), str(tmp_path / "run")
    assert unfinished_loaders(lay_out(chosen, out)) == ("weigh",)
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    execute(chosen, out, options, make_progress(plain=True))
    assert unfinished_loaders(lay_out(chosen, out)) == ()
    assert unfinished_loaders(lay_out(chosen, out), again=True) == ("weigh",)
