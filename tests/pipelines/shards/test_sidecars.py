"""Sidecars: typed and never null for readers that guess, and safe for whatever a title says."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa

from gristmill.pipelines.shards.manifest import FileFact, ShardFact
from gristmill.pipelines.shards.sidecars import (
    JsonMembers,
    card,
    croissant,
    sizes,
    stats,
    wids_index,
)

SHARDS: list[ShardFact] = [
    {"name": "train/00000000.tar", "bytes": 10, "sha256": "aa", "samples": 3},
    {"name": "train/00000001.tar", "bytes": 20, "sha256": "bb", "samples": 1},
]
OTHERS: list[FileFact] = [
    {"name": "train/metadata/00000000.parquet", "bytes": 5, "sha256": "cc"},
    {"name": "train/sizes.json", "bytes": 5, "sha256": "dd"},
]


@dataclass(frozen=True)
class Titles:
    format: str = "webdataset"
    title: str = "Shapes | <b>bold</b>"
    description: str = ""
    licence: str = ""


def test_a_sample_s_json_has_no_null_and_no_nan() -> None:
    schema = pa.schema(
        [
            ("uid", pa.string()), ("ok", pa.bool_()), ("n", pa.int32()), ("x", pa.float32()),
            ("text", pa.string()), ("list", pa.list_(pa.int32())), ("nan", pa.float32()),
        ]
    )  # fmt: skip
    empty = dict.fromkeys(schema.names) | {"uid": "u", "nan": float("nan")}
    assert json.loads(JsonMembers(list(empty), schema)(empty)) == {
        "uid": "u", "key": "u", "status": "success", "ok": False, "n": 0, "x": 0.0, "text": "",
        "list": [], "nan": 0.0,
    }  # fmt: skip
    # A float32 with the digits that tell it apart.
    exact = pa.array([0.1], pa.float32())[0].as_py()
    written = JsonMembers(list(empty), schema)(empty | {"x": exact, "list": [1, None]})
    assert json.loads(written)["x"] == 0.100000001


def test_counts_for_open_clip_wids_and_img2dataset() -> None:
    assert json.loads(sizes(SHARDS)) == {"00000000.tar": 3, "00000001.tar": 1}
    index = json.loads(wids_index(SHARDS, "shapes train"))
    assert index["wids_version"] == 1 and index["name"] == "shapes train"
    assert index["shardlist"][1] == {"url": "00000001.tar", "nsamples": 1, "filesize": 20}
    assert json.loads(stats(4))["successes"] == 4


def test_croissant_names_each_file_with_its_digest_once() -> None:
    schema = pa.schema([("uid", pa.string()), ("tags", pa.list_(pa.float32()))])
    document = json.loads(croissant(Titles(), {"train": SHARDS, "val": []}, OTHERS, schema))
    found = {one["@id"]: one["sha256"] for one in document["distribution"]}
    assert found == {
        "train/00000000.tar": "aa", "train/00000001.tar": "bb",
        "train/metadata/00000000.parquet": "cc",
    }  # fmt: skip
    fields = {one["name"]: one for one in document["recordSet"][0]["field"]}
    tags = fields["train-00000000/tags"]
    assert tags["dataType"] == "sc:Float" and tags["repeated"] is True
    assert "license" not in document
    licensed = json.loads(croissant(Titles(licence="CC0"), {}, [], schema))
    assert licensed["license"] == "CC0"


def test_a_card_adds_up_and_foreign_text_does_not_break_its_tables() -> None:
    text = card(
        Titles(),
        {"train": SHARDS, "val": []},
        {
            "sources": {"web|site": 4},
            "licences": {"unknown": 3, "cc0": 1},
            "verified": {"structure": 3, "decoded": 1},
            "tls": {"verified": 3, "unverified": 1},
            "ranges": {"width": [64, 256]},
            "schema": pa.schema([]),
        },
    ).decode()
    assert "| train | 2 | 4 | 30 |" in text and "| val | 0 | 0 | 0 |" in text
    assert "| web\\|site | 4 |" in text and "<b>" not in text
    assert "| width | 64 | 256 |" in text and "path: train/*.tar" in text and "val/*" not in text
    assert "| structure | 3 |" in text and "| unverified | 1 |" in text
    assert text.index("| unknown | 3 |") < text.index("| cc0 | 1 |")
