"""Small files beside shards, each for somebody's reader, each the same bytes for the same
shards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, Protocol, TypedDict

import pyarrow as pa

from gristmill.pipelines.schema import MESSAGES
from gristmill.pipelines.shards.manifest import FileFact, ListFacts, ShardFact

JsonValue = object
"""What `json.dumps` takes."""


class Described(TypedDict):
    """What a card says of the samples: counts of sources and licences, ranges of numbers."""

    sources: dict[str, int]
    licences: dict[str, int]
    # How download looked at pictures; empty where it decoded all.
    verified: dict[str, int]
    # Whether certificates of servers were verified; left out where all had to be.
    tls: NotRequired[dict[str, int]]
    # Column -> smallest, largest.
    ranges: dict[str, list[float]]
    schema: pa.Schema


class Titled(Protocol):
    """What a card needs to know of the stage that wrote the shards."""

    @property
    def format(self) -> str:
        """webdataset or parquet."""

    @property
    def title(self) -> str:
        """Of the dataset."""

    @property
    def description(self) -> str:
        """Of the dataset."""

    @property
    def licence(self) -> str:
        """Of the dataset as a whole."""


class JsonMembers:
    """Makes the .json of samples: the same keys for every sample, typed, never null.

    What is missing is "", 0, 0.0 or false by its type: readers that infer a schema from the first
    sample must not meet another type later. The metadata Parquet keeps nulls.
    """

    def __init__(self, columns: Sequence[str], schema: pa.Schema) -> None:
        fillers = {name: _filler(schema.field(name).type) for name in columns}
        self._fillers = sorted(fillers.items())
        self._encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False).encode

    def __call__(self, row: Mapping[str, Any]) -> bytes:
        """That of a row."""
        values = {name: fill(row[name]) for name, fill in self._fillers}
        values["key"] = row["uid"]
        values["status"] = "success"
        return self._encode(values).encode()


def _filler(kind: pa.DataType) -> Callable[[Any], Any]:
    """What makes a value of this type one that is never null."""
    if pa.types.is_boolean(kind):
        return bool
    if pa.types.is_integer(kind):
        return lambda value: int(value or 0)
    if pa.types.is_floating(kind):
        return _number
    if pa.types.is_list(kind):
        of_item = _filler(kind.value_type)
        return lambda value: [of_item(item) for item in value or ()]
    return lambda value: value or ""


def _number(value: float | None) -> float:
    number = float(value or 0.0)
    # A float32 is written with the digits that tell it apart, not with those of its double.
    return float(f"{number:.9g}") if math.isfinite(number) else 0.0


def _json(value: JsonValue) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def stats(samples: int) -> bytes:
    """img2dataset's _stats.json; times are left out, as they would differ from run to run."""
    return _json(
        {
            "count": samples,
            "successes": samples,
            "failed_to_download": 0,
            "failed_to_resize": 0,
            "status_dict": {"success": samples},
        }
    )


def sizes(shards: Sequence[ShardFact]) -> bytes:
    """open_clip's sizes.json: file name -> samples."""
    return _json({fact["name"].rpartition("/")[2]: fact["samples"] for fact in shards})


def wids_index(shards: Sequence[ShardFact], name: str) -> bytes:
    """The index that wids reads."""
    return _json(
        {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": name,
            "shardlist": [
                {
                    "url": fact["name"].rpartition("/")[2],
                    "nsamples": fact["samples"],
                    "filesize": fact["bytes"],
                }
                for fact in shards
            ],
        }
    )


# The context of Croissant 1.0 as its home gives it: every term, used here or not.
_TERMS = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty",
    "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
    "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
    "source", "subField", "transform",
)  # fmt: skip
_CONTEXT: dict[str, JsonValue] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS},
}


def croissant(
    stage: Titled,
    splits: Mapping[str, Sequence[ShardFact]],
    others: Sequence[FileFact],
    schema: pa.Schema,
) -> bytes:
    """MLCommons Croissant 1.0: every file with its digest, one record set for each metadata
    file."""
    distribution = []
    records = []
    mime = "application/x-tar" if stage.format == "webdataset" else "application/x-parquet"
    for split, shards in splits.items():
        distribution += [_file_object(fact, mime) for fact in shards]
        for fact in others:
            if not fact["name"].startswith(f"{split}/metadata/"):
                continue
            distribution.append(_file_object(fact, "application/x-parquet"))
            number = fact["name"].rpartition("/")[2].removesuffix(".parquet")
            records.append(_record_set(f"{split}-{number}", fact["name"], schema))
    document: dict[str, JsonValue] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": stage.title,
        "description": stage.description or stage.title,
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "distribution": distribution,
        "recordSet": records,
    }
    if stage.licence:
        document["license"] = stage.licence
    return _json(document)


def _file_object(fact: FileFact, mime: str) -> dict[str, JsonValue]:
    return {
        "@type": "cr:FileObject",
        "@id": fact["name"],
        "name": fact["name"],
        "contentUrl": fact["name"],
        "contentSize": f"{fact['bytes']} B",
        "encodingFormat": mime,
        "sha256": fact["sha256"],
    }


def _record_set(name: str, file: str, schema: pa.Schema) -> dict[str, JsonValue]:
    # A list of objects has no field of one type; it is in the file all the same.
    flat = [one for one in schema if one.type != MESSAGES]
    fields = [pa.field("key", pa.string()), *flat]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{field.name}",
                "name": f"{name}/{field.name}",
                **_croissant_type(field.type),
                "source": {"fileObject": {"@id": file}, "extract": {"column": field.name}},
            }
            for field in fields
        ],
    }


def _croissant_type(kind: pa.DataType) -> dict[str, JsonValue]:
    if pa.types.is_list(kind):
        return {**_croissant_type(kind.value_type), "repeated": True}
    if pa.types.is_boolean(kind):
        return {"dataType": "sc:Boolean"}
    if pa.types.is_integer(kind):
        return {"dataType": "sc:Integer"}
    return {"dataType": "sc:Float" if pa.types.is_floating(kind) else "sc:Text"}


def card(
    stage: Titled,
    splits: Mapping[str, Sequence[ShardFact]],
    described: Described,
    lists: Sequence[ListFacts] = (),
) -> bytes:
    """DATASET_CARD.md, with the front matter that Hugging Face reads; `lists`: what each list
    brought, where there are several."""
    ending = "tar" if stage.format == "webdataset" else "parquet"
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, shards in splits.items():
        if shards:
            lines += [f"  - split: {'validation' if split == 'val' else split}"]
            lines += [f"    path: {split}/*.{ending}"]
    if stage.licence:
        lines.append(f"license: {json.dumps(stage.licence)}")
    lines += ["---", "", f"# {_inline(stage.title)}", ""]
    if stage.description:
        lines += [stage.description, ""]
    lines += ["| split | shards | samples | bytes |", "|---|---:|---:|---:|"]
    for split, shards in splits.items():
        samples = sum(fact["samples"] for fact in shards)
        size = sum(fact["bytes"] for fact in shards)
        lines.append(f"| {split} | {len(shards):,} | {samples:,} | {size:,} |")
    lines += _added(splits, lists) if len(lists) > 1 else []
    looked = "How download looked at pictures (`structure`: it walked over them and decoded none)"
    trusted = "Certificates of servers (`unverified`: who sent the picture is not known)"
    for title, counted in (
        ("Whence", described["sources"]),
        ("Licences of the samples", described["licences"]),
        *([(looked, described["verified"])] if described["verified"] else []),
        *([(trusted, described["tls"])] if described.get("tls") else []),
    ):
        lines += ["", f"## {title}", "", "| | samples |", "|---|---:|"]
        counts = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        lines += [f"| {_inline(value)} | {count:,} |" for value, count in counts]
    lines += ["", "## Columns and their ranges", "", "| column | from | to |", "|---|---:|---:|"]
    for name, (low, high) in sorted(described["ranges"].items()):
        lines.append(f"| {name} | {low:.6g} | {high:.6g} |")
    lines += ["", "## Digests", "", "| file | sha256 |", "|---|---|"]
    for shards in splits.values():
        lines += [f"| {fact['name']} | {fact['sha256']} |" for fact in shards]
    lines += [
        "",
        "How rows were dropped, and why, is in the ledger of the run that wrote this.",
        "",
    ]
    return "\n".join(lines).encode()


def _added(splits: Mapping[str, Sequence[ShardFact]], lists: Sequence[ListFacts]) -> list[str]:
    """Which shards came by which list, and what the later lists were judged by."""
    lines = [
        "",
        "## Lists",
        "",
        "Lists that were added later lie in shards of their own; the shards before them kept their "
        "bytes.",
        "A picture of a later list that is a copy of one that was kept before was dropped. "
        "Quantiles and",
        "clusters are those of the first list.",
        "",
        "| list | split | shards | samples |",
        "|---|---|---|---:|",
    ]
    starts = dict.fromkeys(splits, 0)
    for one in lists:
        for split, count in one["shards"].items():
            found = splits[split][starts[split] : starts[split] + count]
            starts[split] += count
            if found:
                ends = [fact["name"].rpartition("/")[2] for fact in (found[0], found[-1])]
                which = ends[0] if count == 1 else " to ".join(ends)
                samples = sum(fact["samples"] for fact in found)
                lines.append(f"| {_inline(one['name'])} | {split} | {which} | {samples:,} |")
        if not any(one["shards"].values()):
            lines.append(f"| {_inline(one['name'])} | | none | 0 |")
    return lines


def _inline(text: str) -> str:
    """Foreign text as it may stand in a table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
