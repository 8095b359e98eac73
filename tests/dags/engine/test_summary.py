"""summary.json: counts, costs and warnings, also of a run whose ledger does not add up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from toy_run import advance, lay, toy_dag

from gristmill.dags.engine.ledger import count_nodes, kept_rows
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.summary import keep_outcomes, product_counts, rule_warnings, summarise
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.stage import Phase, Write
from gristmill.pipelines.storage import Folder

MANIFEST = {
    "splits": {
        "train": {"shards": [{"samples": 5}, {"samples": 2}]},
        "val": {"shards": []},
    }
}


@dataclass(frozen=True, kw_only=True)
class Product(Write):
    """Writes nothing by itself."""

    def phases(self) -> tuple[Phase, ...]:
        return ()


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> RunLayout:
    """A run of 20 rows: two repeated, one not drawn, 8 shorter than wanted."""
    rules = {"short": "length < 10", "all": "length > 0", "none": "length > 99"}
    layout = lay(tmp_path_factory.mktemp("run"), toy_dag(keep=Keep(rules=rules), shards=Product()))
    advance(layout, "rows", "draw", "bright", "length", "keep")
    layout.folder.write_json("shards/manifest.json", MANIFEST)
    return layout


def test_what_a_run_came_to(layout: RunLayout) -> None:
    counts = count_nodes(layout, 3)
    summary = summarise(layout, 3, counts, {"draw": 2}, 1.234, 99.96)
    assert summary["rows_in"] == 20 and summary["kept"] == kept_rows(layout.dag, counts) == 0
    assert summary["dropped"] == {
        "rows": {"repeated row": 2}, "draw": {"http 404": 1}, "keep": {"short": 8, "all": 9},
    }  # fmt: skip
    assert (summary["born"], summary["merged"], summary["ledger_ok"]) == (0, 0, True)
    assert (summary["seconds"], summary["peak_rss_mb"]) == (1.23, 100.0)
    assert (summary["shards"], summary["samples"]) == (
        {"train": 2, "val": 0},
        {"train": 7, "val": 0},
    )
    assert list(summary["nodes"]) == layout.dag.order()
    draw = summary["nodes"]["draw"]
    assert (draw["parts"], draw["reused"]) == (3, 2) and draw["seconds"] > 0
    assert draw["rows_per_s"] > 0 and summary["nodes"]["rows"]["reused"] == 0


def test_a_run_that_does_not_add_up_still_says_what_it_cost(layout: RunLayout) -> None:
    summary = summarise(layout, 3, None, {}, 1.0, 1.0)
    assert (summary["ledger_ok"], summary["rows_in"], summary["kept"]) == (False, 0, 0)
    assert summary["dropped"] == {} and summary["nodes"]["draw"]["seconds"] > 0


def test_phases_count_for_a_barrier_s_seconds(layout: RunLayout) -> None:
    folder = layout.folder.sub(layout.node_folder("keep"))
    before = summarise(layout, 3, None, {}, 1.0, 1.0)["nodes"]["keep"]["seconds"]
    folder.write_json("phase-more/000000.json", {"seconds": 100.0})
    after = summarise(layout, 3, None, {}, 1.0, 1.0)["nodes"]["keep"]["seconds"]
    folder.remove("phase-more")
    assert after - before == pytest.approx(100.0, abs=0.01)


def test_the_outcome_of_each_rule(layout: RunLayout) -> None:
    outcomes = keep_outcomes(layout, "keep")
    assert [(one.name, one.sql, one.dropped) for one in outcomes] == [
        ("short", "length < 10", 8), ("all", "length > 0", 9), ("none", "length > 99", 0),
    ]  # fmt: skip
    assert [bool(one.warning) for one in outcomes] == [False, False, True]
    assert rule_warnings(outcomes) == ["rule 'none' drops nothing: length > 99"]


def test_the_samples_of_a_product(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write_json("manifest.json", MANIFEST)
    found = product_counts(folder)
    assert found == {"shards": {"train": 2, "val": 0}, "samples": {"train": 7, "val": 0}}
