"""The ledger is written in tasks, by whoever does them: the same files, or none that is named."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from toy_run import advance, lay

from gristmill.dags.engine import ledger_writer
from gristmill.dags.engine.ledger_writer import LEDGER, LedgerOperator, write_ledger
from gristmill.dags.engine.run_folder import RunLayout


def files(layout: RunLayout) -> dict[str, bytes]:
    names = [name for name in layout.folder.walk() if name.startswith("ledger")]
    return {name: layout.folder.read_bytes(name) for name in names}


def test_the_size_and_order_of_tasks_decide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = lay(tmp_path)
    parts = advance(layout)
    assert parts > 2
    counts = write_ledger(layout, parts)
    before = files(layout)
    assert set(before) == {LEDGER, *(f"ledger/{part:06d}.parquet" for part in range(parts))}
    layout.folder.remove_files([LEDGER])
    asked: list[int] = []

    def elsewhere(tasks: Sequence[int], operator: LedgerOperator) -> Iterable[int]:
        sent = pickle.loads(pickle.dumps(operator))
        for task in reversed(tasks):
            assert layout.folder.names("ledger-tasks") == [f"{n:06d}.json" for n in asked[::-1]]
            sent(task)
            asked.append(task)
            yield task

    monkeypatch.setattr(ledger_writer, "PARTS_A_TASK", 1)
    assert write_ledger(layout, parts, elsewhere) == counts
    assert files(layout) == before and asked == [*range(parts)][::-1]
    asked.clear()
    assert write_ledger(layout, parts, elsewhere) == counts
    assert asked == [], "made of the same: left as it is"


def test_a_stop_in_the_middle_names_no_file_and_leaves_nothing_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = lay(tmp_path)
    parts = advance(layout)
    monkeypatch.setattr(ledger_writer, "PARTS_A_TASK", 1)

    def killed(tasks: Sequence[int], operator: LedgerOperator) -> Iterable[int]:
        operator(tasks[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ledger(layout, parts, killed)
    assert LEDGER not in files(layout)
    write_ledger(layout, parts)
    assert set(files(layout)) == {LEDGER, *(f"ledger/{part:06d}.parquet" for part in range(parts))}
