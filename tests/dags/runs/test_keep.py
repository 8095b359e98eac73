"""Another selection on a finished run, and what it says of rules that cannot be meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_world import KEPT, ROWS, UNKNOWN, build_here, captions, contents, run_here, small_dag

from gristmill.dags.runs.export import read_columns
from gristmill.dags.runs.keep import KeepChanges, choose, render_choice
from gristmill.dags.runs.verify import verify_run
from gristmill.errors import GraphError, NothingKeptError
from gristmill.pipelines.verdicts import NO_VALUE

# True of every row that has a brightness, for it is between 0 and 1.
TOO_DARK = {"too dark": "brightness < 20"}


def test_the_run_is_as_it_should_be(home: Path) -> None:
    assert captions(home / "run") == KEPT and verify_run(str(home / "run")) == []


def test_shards_are_not_replaced_by_nothing(out: Path) -> None:
    before = contents(out / "shards")
    said = {name: (out / name).read_bytes() for name in ("dag.yaml", "run.json", "summary.json")}
    choice = choose(str(out), {"rules": TOO_DARK})
    assert (choice.rows, choice.kept) == (ROWS, 0)
    with pytest.raises(NothingKeptError, match=r"9 samples .* stay as they are.*--allow-empty"):
        build_here(choice)
    assert contents(out / "shards") == before
    assert said == {name: (out / name).read_bytes() for name in said}
    assert verify_run(str(out)) == []
    # The run goes on being the run it was.
    assert choose(str(out), {}).kept == len(KEPT)


def test_nothing_is_written_for_somebody_who_wants_it(out: Path) -> None:
    summary = build_here(choose(str(out), {"rules": TOO_DARK}), allow_empty=True)
    assert summary["kept"] == 0 and summary["samples"] == {"train": 0, "val": 0}
    assert not list((out / "shards").rglob("*.tar")) and verify_run(str(out)) == []
    (line,) = json.loads((out / "summary.json").read_text())["advice"]
    assert line == (
        f"NOTHING IS KEPT of {ROWS} rows; most were dropped for: too dark (keep) {ROWS - 1}, "
        "no value (keep) 1"
    )
    # Where there is nothing to lose nobody is asked.
    assert build_here(choose(str(out), {"rules": {"all": "TRUE"}}))["kept"] == 0
    assert build_here(choose(str(out), {"rules": {}}))["kept"] == ROWS


def test_a_run_that_keeps_nothing_says_so(home: Path, out: Path) -> None:
    summary = run_here(out.parent, small_dag({"all": "TRUE"}), "new")
    assert summary["advice"] == [
        f"NOTHING IS KEPT of {ROWS} rows; most were dropped for: all (keep) {ROWS}"
    ]
    with pytest.raises(NothingKeptError):
        run_here(out.parent, small_dag(TOO_DARK))
    assert captions(out) == KEPT
    assert json.loads((home / "run" / "summary.json").read_text())["advice"] == []


@pytest.mark.parametrize(
    ("rule", "value"),
    [("brightness < 20", "20"), ("brightness > -1", "-1"), ("brightness BETWEEN 0.1 AND 3", "3")],
)
def test_a_rule_beyond_the_range_of_its_column_is_said(out: Path, rule: str, value: str) -> None:
    warnings = choose(str(out), {"rules": {"odd": rule}}).warnings
    assert any(f"brightness is 0..1; the rule compares it with {value}" in one for one in warnings)
    assert not any("0..1" in one for one in choose(str(out), {}).warnings)


@pytest.mark.parametrize("rule", ["brigthness < 0.5", "brigthness < quantile(brigthness, 0.5)"])
def test_a_misspelt_column_gets_the_nearest(out: Path, rule: str) -> None:
    with pytest.raises(GraphError, match="did you mean 'brightness'"):
        choose(str(out), {"rules": {"dark": rule}})


def test_a_rule_without_a_value_is_named_with_its_column_and_count(out: Path) -> None:
    choice = choose(str(out), {"rules": {"dark": "brightness < 0.2", "dim": "brightness < 0.5"}})
    assert choice.reasons == [
        (NO_VALUE, 1, "of the rules: dark 1"),
        ("dark", 2, "brightness < 0.2"),
        ("dim", 3, "brightness < 0.5"),
    ]
    build_here(choice)
    ledger = [row for table in _ledger(out) for row in table if row["reason"] == NO_VALUE]
    assert [(Path(str(row["path"])).name, row["value"]) for row in ledger] == [
        (f"{UNKNOWN:02d}.png", "dark: brightness=null")
    ]
    # Of all rows it is worth a warning; kept all the same if so wished.
    assert choose(str(out), {"missing": "keep"}).kept == choice.kept + 1
    nothing = choose(str(out), {"rules": {"none": "NULL::DOUBLE > 1"}})
    assert nothing.warnings == [
        f"rule 'none' has no value for any of {ROWS} rows: NULL::DOUBLE > 1"
    ]


def test_a_rule_whose_rows_were_taken_before_it_names_the_taker(out: Path) -> None:
    rules = {"dim": "brightness < 0.5", "dark": "brightness < 0.2", "never": "brightness > 0.99"}
    choice = choose(str(out), {"rules": rules})
    assert choice.warnings == [
        "rule 'dark' drops nothing: brightness < 0.2; all 2 rows that it means were taken before "
        "it, most by 'dim'"
    ]
    idle = choose(str(out), {"rules": {"a": "brightness < 0.0", "b": "length(uid) < 3"}})
    assert idle.warnings == ["rules that drop nothing: 'a', 'b'"]


def test_from_another_folder_without_source_and_weights(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(out.parent / "pictures")
    (out.parent / "light.txt").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    choice = choose("../home/run", {"rules": {"dim": "brightness < 0.5"}})
    assert choice.kept == 6
    assert build_here(choice)["kept"] == 6
    bright = {f"number {i}" for i in range(5, ROWS) if i != UNKNOWN}
    assert captions(out) == bright and verify_run(str(out)) == []
    # Not even the folder it was started in is needed.
    moved = shutil.move(out, tmp_path / "elsewhere" / "moved")
    shutil.rmtree(out.parent)
    assert build_here(choose(str(moved), {"rules": {}}))["kept"] == ROWS
    assert list(Path.cwd().iterdir()) == [Path(moved)]


def test_a_folder_with_a_quote_in_its_name(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home, tmp_path / "it's")
    out = tmp_path / "it's" / "run"
    summary = run_here(tmp_path / "it's", small_dag({"dim": "brightness < 0.5"}))
    assert summary["kept"] == 6
    assert build_here(choose(str(out), {"rules": {}}))["kept"] == ROWS
    assert verify_run(str(out)) == []
    assert sum(len(table) for table in read_columns(str(out), ["brightness"])) == ROWS


def test_what_a_person_sees_ends_with_the_count(out: Path) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, quiet=False)
    with console.capture() as said:
        console.print(render_choice(choose(str(out), {"rules": TOO_DARK})))
    lines = said.get().splitlines()
    assert lines[-1] == f"0 of {ROWS} rows would be kept (0.0%)"
    assert any("warning: " in line and "0..1" in line for line in lines)


def _ledger(out: Path) -> list[list[dict[str, object]]]:
    import pyarrow.parquet as pq

    return [pq.read_table(path).to_pylist() for path in sorted((out / "ledger").glob("*.parquet"))]


def test_a_choice_that_an_earlier_release_finished_is_read(out: Path) -> None:
    changes: KeepChanges = {"captions": "first"}
    before = choose(str(out), changes)
    build_here(before)
    kept = [*before.uids()]
    (folder,) = out.glob(f"nodes/{before.node}-{before.layout.fingerprints[before.node][:12]}")
    # It had one phase, and its verdicts lay elsewhere.
    for name in ("rules", "captions", "counts", "quantiles"):
        shutil.rmtree(folder / f"phase-{name}", ignore_errors=True)
    for name in ("decided", "candidates", "merged", "outcomes"):
        shutil.rmtree(folder / "saved" / name, ignore_errors=True)
    again = choose(str(out), changes)
    assert (again.kept, [*again.uids()]) == (before.kept, kept)
    assert verify_run(str(out)) == []
