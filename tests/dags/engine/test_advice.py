"""What a run advises at its end."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from toy_run import lay

from gristmill.dags.engine.advice import advice
from gristmill.dags.engine.ledger import NodeCount
from gristmill.dags.engine.run_folder import RunLayout

REASON = "loopback address"


def counted(dropped: dict[str, int], kept: int) -> dict[str, NodeCount]:
    """rows -> draw -> keep, of which `draw` drops."""
    left = 20 - sum(dropped.values())
    return {
        "rows": NodeCount(rows_in=20, kept=20),
        "draw": NodeCount(rows_in=20, kept=left, dropped=dropped),
        "keep": NodeCount(rows_in=left, kept=kept, dropped={"short": left - kept}),
    }


def ledger(layout: RunLayout, *rows: tuple[str | None, str, str]) -> None:
    names = ("url", "node", "reason")
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    layout.folder.sub("ledger").write_table("000000.parquet", pa.table(columns, names=names))


def test_a_refused_address_comes_with_the_setting_that_allows_it(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    ledger(
        layout,
        ("http://example.org/a.jpg", "keep", "short"),
        (None, "draw", REASON),
        ("http://127.0.0.1:8123/b.jpg", "draw", REASON),
    )
    (line,) = advice(layout, counted({REASON: 2}, kept=5))
    assert line == (
        "draw: 2 rows have a loopback address; if that server is meant, "
        "--set draw.allow_hosts=127.0.0.1:8123"
    )


def test_ports_that_are_not_said_and_addresses_in_brackets(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    ledger(layout, ("https://[::1]/b.jpg", "draw", REASON))
    (line,) = advice(layout, counted({REASON: 2}, kept=5))
    assert line.endswith("allow_hosts=[::1]:443")


def test_a_port_may_be_allowed_alone_or_with_all_others(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    ledger(layout, ("http://pictures.test:8123/b.jpg", "draw", "port not allowed"))
    (line,) = advice(layout, counted({"port not allowed": 2}, kept=5))
    assert line.endswith("--set draw.allow_hosts=pictures.test:8123, or --set draw.ports=any")


def test_nothing_kept_comes_first_with_the_commonest_reasons(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    ledger(layout, ("http://10.0.0.1/b.jpg", "draw", "private address"))
    lines = advice(layout, counted({"private address": 3, "http 404": 1}, kept=0))
    assert lines[0] == (
        "NOTHING IS KEPT of 20 rows; most were dropped for: short (keep) 16, "
        "private address (draw) 3, http 404 (draw) 1"
    )
    assert "allow_hosts=10.0.0.1:80" in lines[1]


def test_no_advice_where_rows_are_kept_or_none_came(tmp_path: Path) -> None:
    layout = lay(tmp_path)
    assert advice(layout, counted({"http 404": 3}, kept=5)) == []
    assert advice(layout, {name: NodeCount() for name in ("rows", "draw", "keep")}) == []
