"""The blocks of a page, and what a command line in one would do, by the real parser."""

from __future__ import annotations

import dataclasses
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer.main

from gristmill import cli
from gristmill.dags.recipes.find import RECIPES, recipe
from gristmill.dags.runs.selections import SELECTIONS
from gristmill.dags.settings import apply_settings
from gristmill.model.training.train_config import TrainConfig

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^(`{3,})([a-z{}-]*)\s*(.*)$")
_NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
# The first line of a block that is a file.
_FILE = re.compile(r"^# (\w+\.(?:py|yaml))$")
# What a shell line may begin with that is not ours.
FOREIGN = {"cd", "git", "kubectl", "pip", "python", "ray", "sbatch", "ssh", "uv"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    # Number of its first line in the page, from 1.
    line: int
    language: str
    text: str
    # Why it is not run; empty if it is.
    reason: str = ""
    # What the file is called that it is; empty: none.
    file: str = ""

    def lines(self) -> list[str]:
        """Command lines, those that go on after a backslash put together."""
        joined = self.text.replace("\\\n", " ")
        return [line.strip() for line in joined.splitlines() if line.strip()]


def pages() -> list[Path]:
    """README, ARCHITECTURE and the committed pages of the site."""
    made = {"stages", "recipes"}
    docs = [
        page
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if "_build" not in page.parts and (page.parent.name not in made or page.stem == "index")
    ]
    return [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *docs]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, reason = [], ""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        fence = _FENCE.match(line)
        if fence:
            inside = []
            for _, text in lines:
                if text == fence[1]:
                    break
                inside.append(text)
            text = "\n".join(inside) + "\n"
            named = _FILE.match(inside[0]) if inside else None
            file = named[1] if named else ""
            found.append(Block(page, number + 1, fence[2], text, reason, file))
            reason = ""
        elif mark := _NOT_RUN.match(line):
            reason = mark[1]
        elif line.strip():
            reason = ""
    return found


def check_line(line: str) -> None:
    """Raise unless a command line could be run: flags, choices, fields and selections exist."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    if not words:
        return
    if words[:3] == ["python", "-m", "gristmill"]:
        words = ["gristmill", *words[3:]]
    if words[0] == "gristmill":
        check_command(words[1:])
    elif words[0] == "torchrun":
        check_command(["train", *words[words.index("gristmill.model") + 1 :]])
    elif words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= set(targets), f"no such target: {line}"
    else:
        assert words[0] in FOREIGN, f"whose command is this? {line}"
        if words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).exists(), f"no such file: {line}"


def check_command(arguments: list[str]) -> None:
    """Parse arguments of `gristmill` without running anything, and look up what they name."""
    command: Any = typer.main.get_command(cli.app)
    while hasattr(command, "commands") and arguments and arguments[0] in command.commands:
        command, arguments = command.commands[arguments[0]], arguments[1:]
    assert not hasattr(command, "commands"), f"no such command: {arguments}"
    values = command.make_context(command.name, list(arguments)).params
    settings = values.get("settings") or []
    if command.name in ("run", "plan") and values["recipe"] in RECIPES:
        dag = recipe(values["recipe"])(path=values["source"] or "somewhere")
        apply_settings(dag, settings)
    if command.name == "train":
        known = {field.name for field in dataclasses.fields(TrainConfig)}
        wrong = {one.partition("=")[0] for one in settings} - known
        assert not wrong, f"no such setting of a training: {wrong}"
    if command.name == "keep":
        assert values["recipe"] in (None, *SELECTIONS), f"no such selection: {values['recipe']}"


def all_flags() -> set[str]:
    """Every option of every command."""
    found, waiting = set(), [typer.main.get_command(cli.app)]
    while waiting:
        command: Any = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        found |= {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    return found


def all_fields() -> set[str]:
    """`node.field` of every recipe."""
    return {
        f"{name}.{field.name}"
        for made in RECIPES
        for name, node in recipe(made)(path="somewhere").nodes.items()
        for field in dataclasses.fields(node.stage)
    }
