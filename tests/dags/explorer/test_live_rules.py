"""What the page counts is what `keep` keeps, and a line of the ledger is a row of its table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_world import KEPT, ROWS, RULES, add_here, copy_home, draw, run_here, small_dag

from gristmill.dags.explorer import row_table
from gristmill.dags.explorer.live_rules import LiveRules
from gristmill.dags.explorer.row_table import RowTable
from gristmill.dags.runs.forget import forget
from gristmill.dags.runs.keep import KeepChanges, choose
from gristmill.dags.runs.trace import trace_sample
from gristmill.errors import GraphError, RunError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sources.source import Source


def opened(run: Path) -> LiveRules:
    table = RowTable.open(str(run))
    table.load()
    assert table.is_whole
    return LiveRules(table)


@pytest.mark.parametrize(
    "changes",
    [
        {"rules": RULES},
        {"rules": {}},
        {"rules": {"all": "TRUE"}},
        {"rules": {"low": "brightness < quantile(brightness, 0.4)"}},
        {"rules": {"low": "brightness < 0.5", "high": "brightness > 0.3"}, "missing": "keep"},
        {"rules": {"said": "caption LIKE '%1%'", "it's": "brightness > 0.9"}},
        {"rules": {"copy": "duplicate_of IS NOT NULL"}},
        {"rules": {"more than the mean": "brightness > (SELECT avg(brightness) FROM rows)"}},
    ],
)
def test_rules_do_what_keep_does(wide: Path, changes: KeepChanges) -> None:
    """Of a run of which something was forgotten since."""
    live = opened(wide / "run")
    rules = dict(changes.get("rules", {}))
    counts = live.apply(rules, changes.get("missing", "drop"))
    choice = choose(str(wide / "run"), changes, lock=False)
    assert (counts.rows, counts.kept) == (choice.rows, choice.kept)
    drops = {rule.name: rule.drops for rule in counts.rules} | dict(counts.others)
    assert {name: n for name, n in drops.items() if n} == {
        name: n for name, n, _ in choice.reasons if n
    }
    assert [rule.resolved for rule in counts.rules] == [
        sql for name, _, sql in choice.reasons if name in rules
    ]
    shown = live.table.cursor().execute("SELECT uid FROM shown WHERE now = 'kept'").fetchall()
    assert sorted(uid for (uid,) in shown) == sorted(u for part in choice.uids() for u in part)


def test_texts_that_hardly_repeat_are_read_when_a_rule_names_them(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes and names would be most of the table's memory."""
    monkeypatch.setattr(row_table, "_MOST_VALUES", 3)
    live = opened(wide / "run")
    assert {"image_id", "pixel_hash"} <= live.table.aside.keys()
    # What the run's own rules name is there in any case.
    assert "duplicate_of" in live.table.scores
    live.apply(live.rules)
    rules = {"some": "pixel_hash < '8'", **live.rules}
    counts = live.apply(rules)
    choice = choose(str(wide / "run"), {"rules": rules}, lock=False)
    assert (counts.rows, counts.kept) == (choice.rows, choice.kept) and 0 < counts.kept < 9
    assert "pixel_hash" in live.table.scores and "image_id" in live.table.aside
    assert live.apply(RULES | {"copy": "duplicate_of IS NOT NULL"}).changes == 0


def test_what_a_rule_means_and_what_earlier_ones_take(home: Path) -> None:
    live = opened(home / "run")
    counts = live.apply({"low": "brightness < 0.5", "lower": "brightness < 0.2"})
    assert [(rule.drops, rule.means) for rule in counts.rules] == [(5, 5), (0, 2)]
    # 2, 3 and 4 were kept in the run; 7 has no value, then as now.
    assert counts.changes == 5 and dict(counts.others) == {"no value": 1}
    assert live.apply(RULES).changes == 0


def test_every_line_of_the_ledger_is_a_row(home: Path, tmp_path: Path) -> None:
    """Those that came twice, and those that ended before, too."""
    (tmp_path / "light.txt").write_text("on")
    files = [(home / "pictures" / f"{i:02d}.png").read_bytes() for i in (3, 4, 3, 5)]
    numbers = [3, 4, 3, 5, 6]
    images = [{"bytes": data, "path": ""} for data in (*files, b"no picture")]
    pq.write_table(
        pa.table({"image": images, "caption": [f"number {i}" for i in numbers]}),
        tmp_path / "list.parquet",
    )
    dag = small_dag()
    run_here(tmp_path, dag.replace("source", Source(path="list.parquet")))
    live = opened(tmp_path / "run")
    counts = live.apply(RULES)
    assert live.table.state.rows == 5 and (counts.rows, counts.kept, counts.changes) == (3, 3, 0)
    rows = live.table.cursor().execute("SELECT entered, now FROM shown ORDER BY row").fetchall()
    assert [entered for entered, _ in rows] == [True, True, False, True, False]
    assert rows[2][1] == "repeated row" and rows[4][1] not in ("kept", "repeated row")


def test_a_rule_that_cannot_work_changes_nothing(home: Path) -> None:
    live = opened(home / "run")
    before = live.apply(RULES)
    for rule in ("nonsense > 1", "brightness <", "vector > 1", "read_text('/etc/passwd') = ''"):
        with pytest.raises(GraphError):
            live.apply({"bad": rule})
    assert live.rules == RULES and live.apply(live.rules) == before and before.kept == len(KEPT)


def test_a_run_that_is_not_finished_says_so(home: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError):
        RowTable.open(str(tmp_path))
    assert RowTable.open(str(home / "run")).state.parts == ROWS // 4


def agree(run: Path, rules: dict[str, str]) -> None:
    """The page counts and names what `keep` would keep."""
    live = opened(run)
    counts = live.apply(rules)
    choice = choose(str(run), {"rules": rules}, lock=False)
    assert (counts.rows, counts.kept) == (choice.rows, choice.kept)
    shown = live.table.cursor().execute("SELECT uid FROM shown WHERE now = 'kept'").fetchall()
    assert sorted(uid for (uid,) in shown) == sorted(u for part in choice.uids() for u in part)


@pytest.fixture
def grown(home: Path, tmp_path: Path) -> Path:
    """A run to which brighter pictures were added."""
    run = copy_home(home, tmp_path / "home")
    draw(run.parent / "more", range(20, 32))
    add_here(run.parent, "more")
    return run


@pytest.mark.parametrize(
    "rules",
    [
        {"low": "brightness < quantile(brightness, 0.5)"},
        {"high": "brightness >= quantile(brightness, 0.9)"},
        {"dark": "brightness < 0.45"},
    ],
)
def test_quantiles_are_those_of_the_first_list(grown: Path, rules: dict[str, str]) -> None:
    agree(grown, rules)


@pytest.mark.parametrize("captions", ["first", "best"])
def test_a_caption_that_was_kept_before_stays(home: Path, tmp_path: Path, captions: str) -> None:
    """Of an image that came again with a caption that scores higher."""
    (tmp_path / "light.txt").write_text("on")
    for name, numbers in (("list", (3, 4, 5)), ("more", (6, 4, 9))):
        files = [(home / "pictures" / f"{i:02d}.png").read_bytes() for i in (3, 4, 5)]
        images = [{"bytes": data, "path": ""} for data in files]
        texts = [f"number {i}" for i in numbers]
        table = pa.table({"image": images, "caption": texts})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    dag = small_dag().replace("source", Source(path="list.parquet"))
    keep = Keep(rules=RULES, captions=captions, best_by="brightness")
    run_here(tmp_path, dag.replace("keep", keep))
    add_here(tmp_path, "more.parquet")
    agree(tmp_path / "run", RULES)
    # What was kept of the first is dropped now, so the second takes its place.
    agree(tmp_path / "run", {"dark": "brightness < 0.45"})


@pytest.mark.parametrize("kind", ["uid", "sha256"])
def test_what_was_forgotten_since_is_counted(home: Path, tmp_path: Path, kind: str) -> None:
    """The ledger says nothing of it before shards are built anew."""
    run = copy_home(home, tmp_path / "home")
    live = opened(run)
    ((uid,),) = live.table.cursor().execute("SELECT uid FROM samples LIMIT 1 OFFSET 5").fetchall()
    values = {"uid": uid, "sha256": str(trace_sample(str(run), uid)[0].nodes["download"]["sha256"])}
    forget(str(run), [(kind, values[kind])])
    agree(run, RULES)


def test_a_rule_that_looks_at_other_rows_sees_those_that_came_so_far(
    home: Path, tmp_path: Path
) -> None:
    (tmp_path / "light.txt").write_text("on")
    files = [(home / "pictures" / f"{i:02d}.png").read_bytes() for i in (2, 3, 4)]
    images = [{"bytes": data, "path": ""} for data in (*files, b"no", b"nor this")]
    texts = [f"number {i}" for i in range(2, 7)]
    pq.write_table(pa.table({"image": images, "caption": texts}), tmp_path / "list.parquet")
    run_here(tmp_path, small_dag().replace("source", Source(path="list.parquet")))
    agree(tmp_path / "run", {"few": "10 * brightness < (SELECT count(*) FROM rows)"})


def test_a_rule_that_fails_on_what_lay_aside_leaves_the_view(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_table, "_MOST_VALUES", 3)
    live = opened(wide / "run")
    before = live.apply(live.rules)
    with pytest.raises(GraphError, match="cannot be tried"):
        live.apply({"bad": "CAST(pixel_hash AS INTEGER) > 3"})
    count = "SELECT count(*) FROM shown WHERE now = 'kept'"
    assert live.table.cursor().execute(count).fetchall() == [(before.kept,)]


def test_a_column_that_lay_aside_is_there_in_parts_that_come_later(
    wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_table, "_MOST_VALUES", 3)
    table = RowTable.open(str(wide / "run"))
    table.load(1)
    live = LiveRules(table)
    rules = {"some": "pixel_hash < '8'"}
    live.apply(rules)
    table.load()
    choice = choose(str(wide / "run"), {"rules": rules}, lock=False)
    assert live.apply(rules).kept == choice.kept
