"""Every module of the engine has a test file of its own, beside the whole runs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[3]


def modules_without_a_test(room: str) -> list[str]:
    """Modules of a room for which no tests/<room>/test_<module>.py is there."""
    return sorted(
        file.stem
        for file in (ROOT / room).glob("*.py")
        if file.stem != "__init__" and not (ROOT / "tests" / room / f"test_{file.stem}.py").exists()
    )


def test_no_module_of_the_engine_is_tested_through_whole_runs_alone() -> None:
    assert len(list((ROOT / "dags/engine").glob("*.py"))) > 15
    assert modules_without_a_test("dags/engine") == []
