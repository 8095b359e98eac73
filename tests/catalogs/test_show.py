"""What the catalog says to a person, and to a program."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from catalog_samples import SAMPLES, write_sample
from rich.console import Console
from typer.testing import CliRunner

from gristmill.catalogs.catalog import load, names
from gristmill.catalogs.show import render_entry, render_list, to_plain, use
from gristmill.cli import app


def told(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["catalog", *arguments], env={"COLUMNS": "100"})


def printed(what: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(what)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_an_entry_says_what_it_knows_and_from_where() -> None:
    said = printed(render_entry(load("relaion-coco")))
    for line in (
        "licence of the index     not on the card (LAION-COCO: CC-BY-4.0) (?)",
        "licence of the pixels    of each picture's owner (?)",
        "gated                    terms to accept, or a form [1]",
        "rows                     641,000,000 [1]",
        "size                     234 GB [1]",
        "  hf auth login",
        "  hf download laion/relaion-coco \\\n      --repo-type dataset",
        "      --source catalog:relaion-coco@PATH",
        "[1]  https://huggingface.co/datasets/laion/relaion-coco",
        "(?) nobody could check: format, columns, licence of the index, licence of the pixels",
    ):
        assert line in said, line
    assert "licence of the index     unknown" in printed(render_entry(load("owleval")))


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    entries = [load(name) for name in names()]
    for shown in (render_list(entries), *map(render_entry, entries)):
        assert max(map(len, printed(shown, width).splitlines())) <= width


def test_what_is_withdrawn_and_what_is_measured_by_is_told_first() -> None:
    said = printed(render_entry(load("laion-400m")))
    assert "use catalog:relaion400m" in said.splitlines()[1] + said.splitlines()[2]
    assert "hf download" not in said
    (command,) = use(load("mmmu"))
    assert "decontaminate.sources=catalog:mmmu@PATH" in command and "--source CORPUS" in command
    assert "keep.rules.no caption=" in use(load("megalith-10m"))[0]


def test_the_commands_of_the_catalog(tmp_path: Path) -> None:
    listed = told("list", "--use", "text-to-image").stdout
    assert "cc12m" in listed and "nobody could check" in listed and "mmmu" not in listed
    assert "arXiv 2102.08981" in told("show", "cc12m").stdout
    assert "did you mean 'cc12m'" in str(told("show", "cc12").exception)
    entries = json.loads(told("list", "--json").stdout)
    assert [entry["name"] for entry in entries] == names()
    shown = json.loads(told("show", "laion-coco", "--json").stdout)
    assert shown == to_plain(load("laion-coco")) and shown["instead"] == ["relaion-coco"]
    assert {"gated", "index_license", "content_license", "unchecked", "verified"} <= shown.keys()
    path = write_sample(tmp_path, SAMPLES["cc12m"])
    tried = told("check", f"cc12m@{path}").stdout
    assert "url https://a.test/0.jpg, caption 'a red barn 0'" in tried and "all is well" in tried
    path = write_sample(tmp_path, SAMPLES["megalith-10m"])
    assert "all is well" in told("check", f"megalith-10m@{path}").stdout
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"tag": "x", "prompt": "a cup"}))
    assert "caption 'a cup'" in told("check", f"geneval@{prompts}").stdout
    path = write_sample(tmp_path, SAMPLES["laion-400m"])
    tried = told("check", f"laion-400m@{path}")
    assert "warning: laion-400m was withdrawn" in tried.output and "all is well" in tried.output
    path = write_sample(tmp_path, SAMPLES["mmc4"])
    assert "all is well" in told("check", f"mmc4@{path}").stdout
