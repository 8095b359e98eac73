"""What lies at a path: which of the formats that people have, by its name, its ending and its
content."""

from __future__ import annotations

import json

import fsspec

from gristmill.errors import SourceError
from gristmill.pipelines.sources.tables import image_column, open_parquet
from gristmill.pipelines.storage import Folder

FORMATS = (
    "auto", "parquet", "hf", "csv", "tsv", "jsonl", "txt", "coco", "folder", "tars", "img2dataset",
)  # fmt: skip
_BY_ENDING = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "tsv",
    ".tsv.gz": "tsv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".json": "coco",
    ".txt": "txt",
    ".tar": "tars",
    ".tgz": "tars",
    ".tar.gz": "tars",
}


def expand(path: str) -> list[str]:
    """URLs that a path stands for; globs are expanded, sorted."""
    try:
        fs, plain = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{path}: {error}") from error
    if any(mark in plain for mark in "*?["):
        found = sorted(str(name) for name in fs.glob(plain))
        if not found:
            raise SourceError(f"no file matches {path}")
    elif fs.exists(plain):
        found = [plain]
    else:
        raise SourceError(f"{path} does not exist; is the path right?")
    local = Folder(path).is_local
    return [name if local else str(fs.unstrip_protocol(name)) for name in found]


def detect(kind: str, url: str) -> list[tuple[str, str]]:
    """(format, URL) of what lies at a URL."""
    fs, path = fsspec.core.url_to_fs(url)
    if fs.isdir(path):
        return _detect_folder(kind, url)
    if kind not in ("auto", "parquet"):
        return [(kind, url)]
    lower = url.lower()
    ending = next((e for e in sorted(_BY_ENDING, key=len)[::-1] if lower.endswith(e)), None)
    if ending is None and kind == "auto":
        raise SourceError(
            f"{url}: the format cannot be told from its ending; write e.g. parquet:{url} "
            f"(formats: {', '.join(FORMATS[1:])})"
        )
    found = kind if kind != "auto" else _BY_ENDING[str(ending)]
    if found == "parquet":
        with fsspec.open(url, "rb") as file:
            schema = open_parquet(url, file).schema_arrow
        found = "hf" if image_column(schema) is not None else "parquet"
    if found == "coco" and kind == "auto":
        _check_coco(url)
    return [(found, url)]


def _detect_folder(kind: str, url: str) -> list[tuple[str, str]]:
    folder = Folder(url)
    if kind in ("folder", "img2dataset"):
        return [(kind, url)]
    names = folder.names()
    tars = [name for name in names if name.endswith((".tar", ".tgz", ".tar.gz"))]
    parquets = [name for name in names if name.endswith(".parquet")]
    if kind == "auto" and tars and any(f"{n.rpartition('.')[0]}.parquet" in names for n in tars):
        return [("img2dataset", url)]
    if kind == "tars" or (kind == "auto" and tars):
        return [("tars", folder.join_url(name)) for name in tars]
    if kind in ("parquet", "hf") or (kind == "auto" and parquets):
        return [pair for name in parquets for pair in detect("auto", folder.join_url(name))]
    if kind in ("csv", "tsv", "jsonl", "txt", "coco"):
        wanted = [ending for ending, name in _BY_ENDING.items() if name == kind]
        return [(kind, folder.join_url(n)) for n in names if n.endswith(tuple(wanted))]
    return [("folder", url)]


def _check_coco(url: str) -> None:
    with fsspec.open(url, "rb") as file:
        try:
            document = json.load(file)
        except ValueError:
            document = None
    if not isinstance(document, dict) or "images" not in document:
        raise SourceError(f"{url} is JSON but no COCO captions file; JSON lines end in .jsonl")


def img2dataset_pairs(url: str) -> list[tuple[str, str]]:
    """(tar, parquet) of each shard of an img2dataset output folder."""
    folder = Folder(url)
    names = folder.names()
    return [
        (folder.join_url(name), folder.join_url(f"{name.rpartition('.')[0]}.parquet"))
        for name in names
        if name.endswith(".tar") and f"{name.rpartition('.')[0]}.parquet" in names
    ]
