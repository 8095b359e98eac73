"""Other people's readers open our shards unchanged."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path
from typing import Any

import duckdb
import pytest
from shard_set import ROWS, build


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tars"), [13])


@pytest.fixture(scope="module")
def parquets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("parquets"), [13], format="parquet")


def shards(product: Path, split: str, ending: str) -> list[str]:
    return sorted(str(path) for path in (product / split).glob(f"*.{ending}"))


def count(product: Path, split: str) -> int:
    manifest = json.loads((product / "manifest.json").read_text())
    return sum(int(shard["samples"]) for shard in manifest["splits"][split]["shards"])


def test_webdataset(tars: Path) -> None:
    import webdataset

    with warnings.catch_warnings():
        # webdataset leaves files to the garbage collector, which complains.
        warnings.simplefilter("ignore", ResourceWarning)
        dataset = webdataset.WebDataset(shards(tars, "train", "tar"), shardshuffle=False)
        samples = list(dataset.decode("rgb8").to_tuple("jpg", "txt", "json", "__key__"))
        del dataset
        gc.collect()
    assert len(samples) == count(tars, "train")
    for image, text, facts, key in samples:
        assert image.shape == (12, 16, 3) and facts["uid"] == key and facts["caption"] == text


def test_open_clip_s_sizes(tars: Path) -> None:
    sizes = json.loads((tars / "train" / "sizes.json").read_text())
    assert sum(sizes.values()) == count(tars, "train")
    assert all((tars / "train" / name).exists() for name in sizes)


def test_wids_index(tars: Path) -> None:
    index = json.loads((tars / "train" / "shardindex.json").read_text())
    assert index["__kind__"] == "wids-shard-index-v1"
    assert sum(shard["nsamples"] for shard in index["shardlist"]) == count(tars, "train")
    for shard in index["shardlist"]:
        assert (tars / "train" / shard["url"]).stat().st_size == shard["filesize"]


def _hugging_face(kind: str, files: list[str], cache: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets

    return datasets.load_dataset(
        kind, data_files={"train": files}, split="train", streaming=True, cache_dir=str(cache)
    )


def test_hugging_face_webdataset(tars: Path, tmp_path: Path) -> None:
    samples = list(_hugging_face("webdataset", shards(tars, "train", "tar"), tmp_path))
    assert len(samples) == count(tars, "train")
    assert samples[0]["jpg"].size == (16, 12)
    assert samples[0]["json"]["uid"] == samples[0]["__key__"]


def test_hugging_face_parquet(parquets: Path, tmp_path: Path) -> None:
    samples = list(_hugging_face("parquet", shards(parquets, "train", "parquet"), tmp_path))
    assert len(samples) == count(parquets, "train")
    assert samples[0]["image"].size == (16, 12) and len(samples[0]["uid"]) == 32


def test_duckdb(tars: Path, parquets: Path) -> None:
    query = "SELECT count(DISTINCT uid), count(*) FROM read_parquet('{}')"
    found = duckdb.sql(query.format(f"{tars}/*/metadata/*.parquet")).fetchall()
    assert found == [(ROWS, ROWS)]
    pictures = "SELECT min(octet_length(image.bytes)) FROM read_parquet('{}')"
    rows = duckdb.sql(pictures.format(f"{parquets}/*/0*.parquet")).fetchall()
    assert rows[0][0] > 100


def test_croissant(tars: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlcroissant

        dataset = mlcroissant.Dataset(jsonld=str(tars / "croissant.json"))
        assert dataset.metadata.ctx.issues.errors == set()
        records = list(dataset.records(record_set="train-00000000"))
    assert len(records) == 15
    assert len(records[0]["train-00000000/uid"]) == 32
