"""The check that no test writes into the checkout sees what comes, goes and changes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from checkout import changes, take_snapshot

TESTS = Path(__file__).parent


def test_what_comes_goes_and_changes_is_named_and_caches_are_not(tmp_path: Path) -> None:
    for name in ("stays", "goes", "grows"):
        (tmp_path / name).write_text("x")
    before = take_snapshot(tmp_path)
    assert set(before) == {"stays", "goes", "grows"}
    (tmp_path / "goes").unlink()
    (tmp_path / "grows").write_text("longer")
    (tmp_path / "x").mkdir()
    (tmp_path / "x/tokenizer.json").write_text("{}")
    (tmp_path / "x/__pycache__").mkdir()
    (tmp_path / "x/__pycache__/a.pyc").write_bytes(b"")
    (tmp_path / ".coverage.host.1").write_bytes(b"")
    found = changes(before, take_snapshot(tmp_path))
    assert found == ["changed: grows", "gone: goes", "new: x/tokenizer.json"]


def test_a_run_of_tests_that_writes_beside_them_fails_and_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for name in ("conftest.py", "checkout.py"):
        (tmp_path / "tests" / name).write_bytes((TESTS / name).read_bytes())
    test = "from pathlib import Path\ndef test_it():\n    Path('left').write_text('x')\n"
    (tmp_path / "tests/test_it.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1 and "1 passed" in done.stdout
    assert "new: left" in done.stdout and "below tmp_path" in done.stdout
