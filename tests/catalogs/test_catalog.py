"""The catalog: whole entries, each of which reads what its home publishes."""

from __future__ import annotations

import bz2
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from catalog_samples import PAGE, ROWS, SAID, SAMPLES, URL, write_sample

from gristmill.catalogs.catalog import (
    CHECKED,
    SPDX,
    USES,
    CatalogWarning,
    check,
    is_licence,
    load,
    names,
    resolve,
    select,
)
from gristmill.dags.recipes.find import RECIPES, recipe
from gristmill.errors import ConfigurationError
from gristmill.pipelines.sources.formats import FORMATS
from gristmill.pipelines.sources.source import Source

ENTRIES = [load(name) for name in names()]
READ = [entry.name for entry in ENTRIES if entry.recipe]


def rows_of(name: str, path: Path) -> list[dict[str, Any]]:
    """Rows that the recipe of an entry reads of a file."""
    with warnings.catch_warnings():
        # Of withdrawn sets.
        warnings.simplefilter("ignore", CatalogWarning)
        fields = resolve(f"catalog:{name}@{path}")
    source = recipe(load(name).recipe)(**fields).stage("source")
    assert isinstance(source, Source)
    source.check()
    source.check_columns()
    tables = [table for chunk in source.chunks() for table in source.read(chunk)]
    return [row for table in tables for row in table.to_pylist()]


def test_all_that_is_read_is_tried() -> None:
    assert sorted(SAMPLES) == READ


@pytest.mark.parametrize("name", READ)
def test_an_entry_reads_its_published_schema(name: str, tmp_path: Path) -> None:
    rows = rows_of(name, write_sample(tmp_path, SAMPLES[name]))
    entry = load(name)
    assert len(rows) == ROWS
    for i, row in enumerate(rows):
        said = SAID.replace("{i}", str(i))
        assert row["status"] == "pending" and row["error"] is None
        document = json.loads(row["meta"]).get("document")
        if entry.modality == "interleaved":
            assert said in document["texts"] and len(document["images"]) == 1
            assert document["images"][0]["url"] == URL.replace("{i}", str(i))
            continue
        assert row["caption"] == (said if entry.captions else None)
        if entry.modality == "edit":
            assert document["texts"] == [said]
            assert [image["name"] for image in document["images"]] == ["source", "target"]
            places = [image["url"] or image["pointer"] for image in document["images"]]
            assert len(set(places)) == 2
        else:
            assert row["url"] in (None, *(u.replace("{i}", str(i)) for u in (URL, PAGE)))
            assert row["url"] or row["pointer"].startswith(("file:", "tar:", "parquet:"))
    if entry.modality == "video-text" and "start" in entry.columns:
        assert all({"start", "end"} <= json.loads(row["meta"]).keys() for row in rows)


def test_what_is_special_about_some(tmp_path: Path) -> None:
    captioned = [row["caption"] for row in rows_of("wit", write_sample(tmp_path, SAMPLES["wit"]))]
    assert captioned == [SAID.replace("{i}", str(i)) for i in range(ROWS)]
    path = write_sample(tmp_path, SAMPLES["yfcc100m"])
    packed = tmp_path / "yfcc100m_dataset.bz2"
    packed.write_bytes(bz2.compress(path.read_bytes()))
    assert [row["licence"] for row in rows_of("yfcc100m", packed)] == ["Attribution License"] * ROWS
    rows = rows_of("diffusiondb", write_sample(tmp_path, SAMPLES["diffusiondb"]))
    assert rows[1]["pointer"] == f"file:{tmp_path}/part-000007/1.png"
    rows = rows_of("anyedit", write_sample(tmp_path, SAMPLES["anyedit"]))
    assert json.loads(rows[0]["meta"])["document"]["captions"] == ["before", "after"]
    # With the files of its videos at hand.
    path = write_sample(tmp_path, SAMPLES["internvid"])
    columns = {**load("internvid").columns, "url": "{YoutubeID}.mp4"}
    source = Source(path=str(path), kind="video", columns=columns, images=str(tmp_path / "videos"))
    first = next(iter(source.read(source.chunks()[0]))).to_pylist()[0]
    assert first["pointer"] == f"file:{tmp_path}/videos/v0.mp4"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_is_whole(entry: Any) -> None:
    assert check(entry.name) == []
    assert entry.recipe in ("", *RECIPES) and entry.format in FORMATS
    assert set(entry.verified) | set(entry.unchecked()) <= set(CHECKED)
    assert not set(entry.verified) & set(entry.unchecked())
    if entry.recipe:
        kinds = {"image-text": "image-text", "video-text": "video-text", "edit": "edit"}
        assert entry.modality == kinds.get(entry.recipe, "interleaved")
    if entry.withdrawn:
        assert all(not load(other).withdrawn for other in entry.instead) and entry.instead


def test_licences_are_identifiers_or_words() -> None:
    assert is_licence("MIT") and is_licence("unknown") and is_licence("of its parts")
    assert not is_licence("CC-BY") and not is_licence("Apache 2".replace(" ", ""))
    assert {entry.index_license for entry in ENTRIES} & SPDX >= {"MIT", "CC-BY-4.0", "Apache-2.0"}


def test_entries_are_chosen_by_what_they_are_for() -> None:
    for use in USES:
        assert len(select(use=use)) >= 5
    assert {entry.name for entry in select(license_text="cc0")} >= {"diffusiondb", "pd12m"}
    assert all(entry.redistributable for entry in select(redistributable=True))
    with pytest.raises(ConfigurationError, match="choose one of"):
        select(modality="smell")
    surveyed = {"mmmu", "mme", "mmbench", "geneval", "t2i-compbench", "wise", "gedit-bench"}
    assert surveyed <= {entry.name for entry in select(use="evaluation")}


def test_a_set_that_was_withdrawn_says_what_to_use() -> None:
    with pytest.raises(ConfigurationError, match=r"withdrawn .*use catalog:relaion400m\. To read"):
        resolve("catalog:laion-400m")
    with pytest.warns(CatalogWarning, match=r"use catalog:relaion400m"):
        assert resolve("catalog:laion-400m@a.parquet")["path"] == "a.parquet"
    assert resolve("catalog:relaion400m@a.parquet")["name"] == "relaion400m"


def test_a_benchmark_is_not_trained_on_without_a_warning() -> None:
    for entry in select(use="evaluation"):
        source = f"catalog:{entry.name}@x"
        with pytest.warns(CatalogWarning, match="decontaminate"):
            resolve(source)
        assert resolve(source, measured=True)["path"] == "x"
        assert not entry.recipe
