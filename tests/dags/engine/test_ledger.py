"""The ledger: a table of fates -> the equation, and what does not add up is said."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest
from toy_run import advance, lay, toy_dag
from toy_stages import ToyDraw, ToyRows

from gristmill.dags.engine.ledger import (
    NodeCount,
    check_counts,
    count_nodes,
    deciding_nodes,
    kept_rows,
    ledger_schema,
)
from gristmill.dags.engine.ledger_writer import write_ledger
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.errors import LedgerError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.shards.files import LOST_SCHEMA
from gristmill.pipelines.shards.shards import Shards

# For each of four rows that a Keep node receives, its verdict and reason.
KEPT, DARK, SMALL, COPY = ("kept", None), ("dropped", "dark"), ("dropped", "small"), ("merged", "m")


@pytest.mark.parametrize(
    ("fates", "count"),
    [
        ([KEPT] * 4, NodeCount(4, kept=4)),
        ([DARK] * 4, NodeCount(4, dropped={"dark": 4})),
        ([KEPT, DARK, SMALL, DARK], NodeCount(4, kept=1, dropped={"dark": 2, "small": 1})),
        ([KEPT, COPY, COPY, DARK], NodeCount(4, kept=1, merged=2, dropped={"dark": 1})),
        ([COPY] * 4, NodeCount(4, merged=4)),
    ],
)
def test_verdicts_to_the_equation(
    fates: list[tuple[str, str | None]], count: NodeCount, tmp_path: Path
) -> None:
    layout = decided(tmp_path, fates)
    counts = write_ledger(layout, 1)
    assert counts["keep"] == count and count.adds_up
    rows = layout.folder.read_table("ledger/000000.parquet")
    found = [(row["verdict"], row["reason"]) for row in rows.to_pylist()]
    assert sorted(found, key=str) == sorted(fates, key=str)
    assert kept_rows(layout.dag, counts) == count.kept


def decided(folder: Path, fates: list[tuple[str, str | None]]) -> RunLayout:
    """A run of four rows whose Keep node came to these verdicts."""
    layout = lay(folder, toy_dag(rows=ToyRows(rows=4), draw=ToyDraw(), keep=Keep()))
    advance(layout, "rows", "draw", "bright", "length")
    uids = RowReader(layout).entering("keep", 0, ["uid"])["uid"]
    table = pa.table(
        {
            "uid": uids,
            "verdict": pa.array([verdict for verdict, _ in fates], pa.string()),
            "reason": pa.array([reason for _, reason in fates], pa.string()),
            "value": pa.nulls(len(fates), pa.string()),
        }
    )
    reasons = [reason for verdict, reason in fates if verdict == "dropped"]
    with layout.store("keep").attempt(0) as attempt:
        attempt.write_table("rows", table)
        attempt.commit(
            rows_in=4,
            rows_out=fates.count(KEPT),
            merged=fates.count(COPY),
            dropped={
                str(reason): reasons.count(reason) for reason in sorted(set(reasons), key=str)
            },
        )
    return layout


@pytest.mark.parametrize(
    ("count", "adds_up"),
    [
        (NodeCount(), True),
        (NodeCount(5, kept=5), True),
        (NodeCount(5, kept=4), False),
        (NodeCount(5, kept=5, dropped={"a": 1}), False),
        (NodeCount(5, rows_added=3, kept=6, dropped={"a": 1, "b": 1}), True),
        (NodeCount(5, rows_added=3, kept=6, merged=2), True),
        (NodeCount(5, rows_added=-2, kept=3), True),
        (NodeCount(5, merged=5), True),
        (NodeCount(5, merged=6), False),
    ],
)
def test_the_equation(count: NodeCount, adds_up: bool) -> None:
    assert count.adds_up is adds_up
    problems = check_counts(toy_dag(), {"rows": count})
    assert problems == [] if adds_up else "node 'rows': 5 in + " in problems[0]


# rows -> draw -> bright, length -> keep; poison: rows that one of the Score nodes set aside.
@pytest.mark.parametrize(
    ("drawn", "poison", "entering", "problem"),
    [
        (10, {}, 10, ""),
        (10, {"bright": 1}, 9, ""),
        # One row may be poison to both, or each has its own.
        (10, {"bright": 1, "length": 1}, 9, ""),
        (10, {"bright": 1, "length": 1}, 8, ""),
        (10, {"bright": 1, "length": 1}, 7, "10 rows left 'draw', 7 reached 'keep'"),
        (10, {"bright": 2, "length": 1}, 9, "10 rows left 'draw', 9 reached 'keep'"),
        (10, {}, 9, "10 rows left 'draw', 9 reached 'keep'"),
        (10, {}, 11, "10 rows left 'draw', 11 reached 'keep'"),
    ],
)
def test_between_row_nodes_only_poison_leaves(
    drawn: int, poison: dict[str, int], entering: int, problem: str
) -> None:
    counts = {"rows": NodeCount(drawn, kept=drawn), "draw": NodeCount(drawn, kept=drawn)}
    for node in ("bright", "length"):
        bad = poison.get(node, 0)
        dropped = {"poisoned": bad} if bad else {}
        counts[node] = NodeCount(drawn, kept=drawn - bad, dropped=dropped)
    counts["keep"] = NodeCount(entering, kept=entering)
    assert check_counts(toy_dag(), counts) == ([problem] if problem else [])


def test_every_row_of_a_source_has_one_line_with_the_columns_that_rules_name(
    tmp_path: Path,
) -> None:
    layout = lay(tmp_path)
    parts = advance(layout)
    assert deciding_nodes(layout.dag) == ["rows", "draw", "bright", "length", "keep"]
    counts = write_ledger(layout, parts)
    lines = [
        row
        for part in range(parts)
        for row in layout.folder.read_table(f"ledger/{part:06d}.parquet").to_pylist()
    ]
    assert sorted(row["row"] for row in lines) == list(range(20))
    why = {row["row"]: (row["node"], row["reason"]) for row in lines if row["verdict"] != "kept"}
    short = {number: ("keep", "short") for number in range(9) if number != 3}
    repeated = {number: ("rows", "repeated row") for number in (9, 19)}
    assert why == short | repeated | {3: ("draw", "http 404")}
    assert ledger_schema(layout.dag).names[-1] == "length"
    assert all(row["length"] in (9, 10) for row in lines if row["verdict"] == "kept")
    assert counts == count_nodes(layout, parts) and counts["draw"].dropped == {"http 404": 1}


@pytest.mark.parametrize(
    ("node", "key", "message"),
    [
        ("keep", "rows_out", r"node 'keep': \d+ in \+ 0 added is not"),
        ("rows", "rows_in", r"node 'rows': .*rows came in, the ledger has"),
        ("draw", "born", r"node 'draw': \d+ in \+ 1 added is not"),
    ],
)
def test_a_count_that_is_off_by_one_is_said(
    node: str, key: str, message: str, tmp_path: Path
) -> None:
    parts = advance(lay(tmp_path))
    layout = lay(tmp_path)
    store = layout.store(node)
    record = store.need(0).stored()
    number = record[key]
    assert isinstance(number, int)
    write_sealed(store.folder, "000000.json", record | {key: number + 1})
    layout.forget(node)
    with pytest.raises(LedgerError, match=re.compile(message, re.DOTALL)):
        write_ledger(layout, parts)


def test_a_line_that_is_lost_is_said(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    parts = advance(layout)
    store = layout.store("draw")
    record = store.need(0)
    table = store.table(record)
    ended = table["status"].to_pylist().index("failed_to_download")
    rest = pa.concat_tables([table.slice(0, ended), table.slice(ended + 1)])
    with store.attempt(0) as attempt:
        attempt.write_table("rows", rest)
        attempt.files["blobs"] = record.files["blobs"]
        facts = {name: getattr(record, name) for name in ("inputs", "rows_in", "rows_out")}
        attempt.commit(**facts, dropped=record.dropped)
    with pytest.raises(LedgerError, match="20 rows came in, the ledger has 19"):
        write_ledger(layout, parts)


def test_files_of_an_earlier_run_with_more_parts_go(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    parts = advance(layout)
    layout.folder.write_bytes(f"ledger/{parts + 3:06d}.parquet", b"old")
    write_ledger(layout, parts)
    assert layout.folder.names("ledger") == [f"{part:06d}.parquet" for part in range(parts)]


def test_rows_that_the_product_lost_have_their_reason(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag(shards=Shards()))
    parts = advance(layout, "rows", "draw", "bright", "length", "keep")
    before = write_ledger(layout, parts)
    assert "shards" not in before
    kept = [
        row
        for part in range(parts)
        for row in layout.folder.read_table(f"ledger/{part:06d}.parquet").to_pylist()
        if row["verdict"] == "kept"
    ]
    lost = {"uid": kept[1]["uid"], "reason": "frames not decodable", "value": "ValueError: no"}
    folder = layout.folder.sub(layout.node_folder("shards"))
    folder.write_table("saved/lost/000003.parquet", pa.Table.from_pylist([lost], LOST_SCHEMA))
    counts = write_ledger(layout, parts)
    count = counts["shards"]
    assert (count.rows_in, count.kept) == (len(kept), len(kept) - 1) and count.adds_up
    assert kept_rows(layout.dag, counts) == len(kept) - 1
    lines = [
        row
        for part in range(parts)
        for row in layout.folder.read_table(f"ledger/{part:06d}.parquet").to_pylist()
        if row["node"] == "shards"
    ]
    expected = kept[1] | lost | {"verdict": "dropped", "node": "shards"}
    assert lines == [expected]
