"""A stage that breaks its word, or fails on every row, stops the run by name; bad rows do not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from toy_stages import ToyDraw, ToyRows

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.errors import StageError
from gristmill.pipelines.media import PICTURE, Media
from gristmill.pipelines.stage import Global, Map, Phase, Score, Stage, Workspace

LENGTH = pa.schema([pa.field("length", pa.int32())])


@dataclass(frozen=True, kw_only=True)
class Broken(Score):
    """Raises on every caption with one of `words`, and counts how often it was asked."""

    words: tuple[str, ...] = ("picture",)
    asked: str = ""

    def reads(self) -> tuple[str, ...]:
        return ("caption",)

    def writes(self) -> pa.Schema:
        return LENGTH

    def score(self, table: pa.Table, images: Sequence[Any] | None) -> pa.Table:
        captions = table["caption"].to_pylist()
        if self.asked:
            with open(self.asked, "a") as file:
                file.write("x")
        for caption in captions:
            if set(caption.split()) & set(self.words):
                raise KeyError(f"no {caption}")
        return pa.table([[len(text) for text in captions]], schema=LENGTH)


@dataclass(frozen=True, kw_only=True)
class ForgotReads(Broken):
    """Asks for a column that it did not name."""

    def reads(self) -> tuple[str, ...]:
        return ("uid",)


@dataclass(frozen=True, kw_only=True)
class WrongType(Broken):
    def score(self, table: pa.Table, images: Sequence[Any] | None) -> pa.Table:
        return pa.table({"length": [1.5] * len(table)})


@dataclass(frozen=True, kw_only=True)
class NoCaption(Map):
    """Forgets the caption."""

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        yield table.drop_columns(["caption"])


@dataclass(frozen=True, kw_only=True)
class RaisingMap(Map):
    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        raise KeyError("colour")


@dataclass(frozen=True, kw_only=True)
class RaisingGlobal(Global):
    def writes(self) -> pa.Schema:
        return pa.schema([pa.field("group", pa.int32())])

    def phases(self) -> tuple[Phase, ...]:
        return ()

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        return pa.table({"group": [1 // part]})


@dataclass(frozen=True, kw_only=True)
class Garbled(ToyDraw):
    """Stores what is no picture."""

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        for out in super().map(table):
            image = pa.array([b"garbled"] * len(out), pa.binary())
            yield out.set_column(out.schema.get_field_index("image"), "image", image)


@dataclass(frozen=True, kw_only=True)
class Seen(Broken):
    """Looks at pictures."""

    media: ClassVar[Media | None] = PICTURE


def run(stage: Stage, out: Path, *, rows: int = 40, runner: str = "local", **options: Any) -> Any:
    nodes = {"rows": Node(ToyRows(rows=rows))}
    if draw := options.get("draw"):
        nodes["draw"] = Node(draw, ("rows",))
    nodes["mine"] = Node(stage, (list(nodes)[-1],))
    supervision = Supervision(
        isolate=options.get("isolate", True), row_deadline_s=20.0, map_silence_s=60.0
    )
    dag = Dag("broken", nodes, options.get("part_rows", 100))
    chosen = RunOptions(runner=runner, supervision=supervision)
    return execute(dag, str(out), chosen, make_progress(plain=True))


@pytest.mark.parametrize("rows", [60, 5])
def test_a_stage_that_raises_on_its_first_rows_stops_the_run(tmp_path: Path, rows: int) -> None:
    """Within sixteen rows, or all there are; KeyErrors differ in words but not in place."""
    stage = Broken(asked=str(tmp_path / "asked"))
    with pytest.raises(StageError) as caught:
        run(stage, tmp_path / "run", rows=rows)
    message = str(caught.value)
    assert message.startswith("node 'mine' (Broken) fails on every row it is given: KeyError: 'no ")
    assert 'raise KeyError(f"no {caption}")' in message, "the row's own traceback"
    # Once the whole block, then row by row; its worker is a few rows ahead when it is stopped.
    asked = len((tmp_path / "asked").read_text())
    assert asked == 6 if rows == 5 else 17 <= asked < 40


def test_a_column_that_reads_forgot_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"'caption' enters the node, but the stage's reads\(\)"):
        run(ForgotReads(), tmp_path, rows=4)


def test_so_it_does_on_ray(tmp_path: Path, ray_session: None) -> None:
    with pytest.raises(StageError, match=r"node 'mine' \(Broken\) fails on every row") as caught:
        run(Broken(), tmp_path, runner="ray")
    assert 'raise KeyError(f"no {caption}")' in str(caught.value)


def test_a_row_that_goes_well_shows_that_the_stage_is_sound(tmp_path: Path) -> None:
    # All of the first part but its first row, and more than sixteen in a line.
    words = tuple(str(number) for number in range(1, 36))
    summary = run(Broken(words=words), tmp_path, part_rows=36)
    assert summary["ledger_ok"] and summary["dropped"]["mine"]["poisoned"] == 32
    # A part that holds poison rows alone, after a sound one.
    out = tmp_path / "last"
    summary = run(Broken(words=("36", "37", "38")), out, part_rows=32)
    assert summary["dropped"]["mine"]["poisoned"] == 3


def test_rows_that_do_not_decode_are_rows_of_their_own(tmp_path: Path) -> None:
    summary = run(Seen(words=()), tmp_path, rows=20, draw=Garbled())
    assert summary["dropped"]["mine"] == {"poisoned": 18} and summary["ledger_ok"]
    table = pq.read_table(tmp_path / "ledger")
    values = table.filter(pc.equal(table["reason"], "poisoned"))["value"]
    assert values.unique().to_pylist() == ["DecodeError: 7 bytes that do not decode as an image"]


@pytest.mark.parametrize(
    ("stage", "isolate", "message"),
    [
        (WrongType(), True, r"node 'mine' \(WrongType\) returns the column 'length' as double"),
        (
            NoCaption(),
            False,
            r"node 'mine' \(NoCaption\) yields a table without the column 'caption'",
        ),
        (
            RaisingMap(),
            True,
            r"(?s)node 'mine' \(RaisingMap\) fails on every row it is given: KeyError: 'colour'",
        ),
        (
            RaisingGlobal(),
            False,
            r"(?s)node 'mine' \(RaisingGlobal\) fails: ZeroDivisionError.*1 // part",
        ),
    ],
)
def test_the_message_names_node_and_stage(
    stage: Stage, isolate: bool, message: str, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=message) as caught:
        run(stage, tmp_path, rows=5, isolate=isolate)
    if "yields" in message or "returns" in message:
        assert "Traceback" not in str(caught.value)
