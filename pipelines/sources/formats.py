"""What lies at a path: which of the formats that people have, by its name, its ending and its
content."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from gristmill.errors import SourceError
from gristmill.pipelines.locate import entry_type, locate, matching, open_url
from gristmill.pipelines.sources.lines import is_array
from gristmill.pipelines.sources.parquet import image_column, open_parquet
from gristmill.pipelines.storage import Folder
from gristmill.pipelines.tar_samples import TAR_ENDINGS

FORMATS = (
    "auto", "parquet", "hf", "csv", "tsv", "jsonl", "txt", "coco", "folder", "tars", "img2dataset",
    "warc", "wat",
)  # fmt: skip
# Of web crawls.
ARCHIVES = ("warc", "wat")
_BY_ENDING = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "coco",
    ".txt": "txt",
    # Before what a WAT's longer name ends in.
    ".wat": "wat",
    ".warc": "warc",
}
# What Hugging Face calls the table of a folder of pictures.
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_PACKED_AS = {
    **dict.fromkeys(("csv", "tsv", "jsonl", "txt"), _PACKED),
    **dict.fromkeys(ARCHIVES, (".gz", ".zst", ".lz4")),
}


def format_of(name: str) -> str | None:
    """The format that a file's ending stands for, packed or not."""
    lower = name.lower()
    if lower.endswith(TAR_ENDINGS):
        return "tars"
    for ending, found in _BY_ENDING.items():
        packed = _PACKED_AS.get(found, ())
        if lower.endswith((ending, *(ending + end for end in packed))):
            return found
    return None


def expand(path: str) -> list[str]:
    """URLs that a path stands for. What exists under the very name is meant; else globs are
    expanded, sorted, without dot files."""
    try:
        fs, plain = locate(path)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{path}: {error}") from error
    if entry_type(fs, plain):
        found = [plain]
    elif any(mark in plain for mark in "*?["):
        shown = plain.rpartition("/")[2].startswith(".")
        found = [name for name in matching(fs, plain) if shown or not is_hidden(name)]
        if not found:
            raise SourceError(f"no file matches {path}")
    else:
        raise SourceError(f"{path} does not exist; is the path right?")
    local = Folder(path).is_local
    return [name if local else str(fs.unstrip_protocol(name)) for name in found]


def is_hidden(name: str) -> bool:
    """Whether a file is hidden by a dot, as a Mac's `._0.parquet` is."""
    return name.rstrip("/").rpartition("/")[2].startswith(".")


def is_folder(url: str) -> bool:
    """Whether a URL leads to a folder."""
    fs, path = locate(url)
    return entry_type(fs, path) == "directory"


def split_paths(path: str, named_format: Callable[[str], tuple[str, str]]) -> list[str]:
    """Paths between commas; a comma may be part of a name that exists."""
    pieces, found = path.split(","), []
    while pieces:
        longer = range(len(pieces), 1, -1)
        count = next((n for n in longer if _is_there(pieces[:n], named_format)), 1)
        found.append(",".join(pieces[:count]).strip())
        pieces = pieces[count:]
    return found


def _is_there(pieces: Sequence[str], named_format: Callable[[str], tuple[str, str]]) -> bool:
    fs, plain = locate(named_format(",".join(pieces).strip())[1])
    return entry_type(fs, plain) is not None


def detect(kind: str, url: str) -> list[tuple[str, str]]:
    """(format, URL) of what lies at a URL."""
    if is_folder(url):
        return _detect_folder(kind, url)
    if kind not in ("auto", "parquet"):
        return [(kind, url)]
    found = kind if kind != "auto" else format_of(url)
    if found is None:
        raise SourceError(
            f"{url}: the format cannot be told from its ending; write e.g. parquet:{url} "
            f"(formats: {', '.join(FORMATS[1:])})"
        )
    if found == "parquet":
        with open_url(url) as file:
            schema = open_parquet(url, file).schema_arrow
        found = "hf" if image_column(schema) is not None else "parquet"
    if found == "coco" and kind == "auto":
        if is_array(url):
            return [("jsonl", url)]
        _check_coco(url)
    return [(found, url)]


def _detect_folder(kind: str, url: str) -> list[tuple[str, str]]:
    folder = Folder(url)
    if kind in ("folder", "img2dataset"):
        return [(kind, url)]
    names = [name for name in folder.names() if not is_hidden(name)]
    files = _without_folders(folder, names)
    tars = [name for name in files if name.endswith(TAR_ENDINGS)]
    parquets = [name for name in names if name.endswith(".parquet")]
    if kind == "auto" and (tables := _metadata(folder, names, files)):
        return [pair for name in tables for pair in detect("auto", folder.join_url(name))]
    if kind == "auto" and tars and any(f"{n.rpartition('.')[0]}.parquet" in names for n in tars):
        return [("img2dataset", url)]
    if kind == "tars" or (kind == "auto" and tars):
        return [("tars", folder.join_url(name)) for name in tars]
    if kind in ("parquet", "hf") or (kind == "auto" and parquets):
        return [pair for name in parquets for pair in detect("auto", folder.join_url(name))]
    for archive in ARCHIVES if kind == "auto" else ():
        # A WAT says again what the WARC beside it holds.
        if any(format_of(name) == archive for name in files):
            kind = archive
            break
    if kind in ("csv", "tsv", "jsonl", "txt", "coco", *ARCHIVES):
        return [(kind, folder.join_url(name)) for name in files if format_of(name) == kind]
    return [("folder", url)]


def _metadata(folder: Folder, names: list[str], files: list[str]) -> list[str]:
    """The tables of a folder of pictures: its own, or one in each folder below (train, test)."""
    own = [name for name in METADATA if name in files]
    if own:
        return own[:1]
    below = [name for name in names if name not in files]
    found = []
    for name in below:
        inside = folder.names(name)
        found += [f"{name}/{table}" for table in METADATA if table in inside][:1]
    # Pictures of a folder without a table would be lost.
    return found if len(found) == len(below) else []


def _without_folders(folder: Folder, names: list[str]) -> list[str]:
    """Names of files; a folder may be called `x.tar` as well."""
    entries = folder.fs.ls(folder.path, detail=True)
    folders = {
        str(entry["name"]).rstrip("/").rpartition("/")[2]
        for entry in entries
        if entry["type"] == "directory"
    }
    return [name for name in names if name not in folders]


def _check_coco(url: str) -> None:
    with open_url(url) as file:
        try:
            document = json.load(file)
        except (ValueError, RecursionError):
            document = None
    if not isinstance(document, dict) or "images" not in document:
        raise SourceError(
            f"{url} is JSON, but neither an array of rows nor a COCO captions file; JSON lines end "
            "in .jsonl"
        )


def img2dataset_pairs(url: str) -> list[tuple[str, str]]:
    """(tar, parquet) of each shard of an img2dataset output folder."""
    folder = Folder(url)
    names = [name for name in folder.names() if not is_hidden(name)]
    return [
        (folder.join_url(name), folder.join_url(f"{name.rpartition('.')[0]}.parquet"))
        for name in names
        if name.endswith(".tar") and f"{name.rpartition('.')[0]}.parquet" in names
    ]
