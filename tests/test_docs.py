"""README, ARCHITECTURE and the pages of docs/ do as they say: blocks are run as printed, in a
prepared folder; lines that need a hub, a GPU, a cluster or minutes say so, and are parsed."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from doc_blocks import Block, all_fields, all_flags, blocks, check_line, pages
from doc_world import build_place, run_line

from gristmill.dags.dag_yaml import load_dag

ROOT = Path(__file__).parents[1]
TESTED = ("sh", "python", "yaml")
WITH_BLOCKS = [page for page in pages() if any(b.language in TESTED for b in blocks(page))]
_SPAN = re.compile(r"`([^`\n]+)`")
# Options of other programs that our pages name.
THEIRS = {"--help", "--nproc-per-node"}
# Stands for any of them.
ANY_FIELD = "node.field"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A folder with what the pages speak of, and a copy of it as it was."""
    place = tmp_path_factory.mktemp("docs") / "place"
    build_place(place)
    before = place.with_name("before")
    shutil.copytree(place, before, symlinks=True)
    yield place, before
    # Every page passed: nothing of it is looked at again.
    shutil.rmtree(place.parent)


@pytest.fixture
def place(prepared: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder as it was prepared, and current; modules that a page wrote are forgotten."""
    here, before = prepared
    shutil.rmtree(here)
    shutil.copytree(before, here, symlinks=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [str(here), *sys.path])
    known = set(sys.modules)
    yield here
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(here)):
            del sys.modules[name]


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Do what a block says, or, where it says why not, only read it."""
    if block.file:
        Path(block.file).write_text(block.text)
        importlib.invalidate_caches()
    if block.language == "python":
        # Line numbers in a traceback are those of the page.
        code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
        if block.file:
            importlib.import_module(Path(block.file).stem)
        elif not block.reason:
            exec(code, names)
    elif block.language == "yaml" and "nodes:" in block.text:
        load_dag(block.text, block.page.name).validate()
    elif block.language == "sh":
        for line in block.lines():
            check_line(line)
            if not block.reason:
                run_line(line)


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_as_it_says(
    page: Path, place: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = blocks(page)
    lines = [line for b in found if b.language == "sh" and not b.reason for line in b.lines()]
    if any(" run " in line and "--runner local" not in line for line in lines):
        request.getfixturevalue("ray_session")
    # Classes that a block defines are looked up by this name where source is read again.
    names: dict[str, Any] = {"__name__": "page"}
    for block in found:
        run_block(block, names)


def test_commands_stand_in_blocks_that_are_tested() -> None:
    for page in pages():
        inside = {
            number
            for block in blocks(page)
            if block.language in TESTED
            for number in range(block.line, block.line + block.text.count("\n"))
        }
        for number, line in enumerate(page.read_text().splitlines(), 1):
            command = re.match(r"\s*(gristmill|python -m|make|torchrun) [a-z]", line)
            assert number in inside or not command, f"{page.name}:{number} is in no tested block"


def test_settings_and_flags_in_the_text_exist() -> None:
    fields, flags = all_fields(), all_flags() | THEIRS
    for page in pages():
        for number, line in enumerate(page.read_text().splitlines(), 1):
            # In a table of another tool's options ours are in the last cell.
            if "coming-from" in page.parts and line.startswith("|"):
                line = line.strip("| ").rpartition(" | ")[2]
            elif "coming-from" in page.parts or "#" in page.name:
                continue
            for span in _SPAN.findall(line):
                where = f"{page.name}:{number}: {span}"
                for setting in re.findall(r"--set \"?([a-z_]+\.[a-z_]+)", span):
                    assert setting in {ANY_FIELD, *fields}, where
                for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span):
                    assert flag in flags, where


def test_a_wrong_flag_field_or_selection_is_seen() -> None:
    for line in (
        "gristmill run image-text --source x --out y --sauce z",
        "gristmill run image-text --source x --out y --set download.image_sise=1",
        "gristmill keep runs/mine --recipe clip-top-3",
        "gristmill trian tiny",
        "torchrun -m gristmill.model base --data x --out y --set stebs=3",
        "make demmo",
    ):
        with pytest.raises(Exception, match=r"(?i)no such|did you mean|sauce|trian"):
            check_line(line)


def test_a_block_that_fails_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: costs too much -->\n```python\n1 / 0\n```\n\n```python\n1 / 0\n```\n"
    )
    marked, plain = blocks(page)
    assert (marked.reason, plain.reason) == ("costs too much", "")
    run_block(marked, {})
    with pytest.raises(ZeroDivisionError):
        run_block(plain, {})
    with pytest.raises(SyntaxError):
        run_block(replace(marked, text="1 +"), {})


def test_the_readme_and_the_architecture_stay_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) < 400
