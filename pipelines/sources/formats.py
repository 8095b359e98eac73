"""What lies at a path: which of the formats that people have, by its name, its ending and its
content."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence

from gristmill.errors import SourceError
from gristmill.pipelines.locate import entry_type, is_folder, locate, matching, open_url, unpack
from gristmill.pipelines.patience import is_of_content
from gristmill.pipelines.sources.lines import json_format
from gristmill.pipelines.sources.parquet import image_column, open_parquet
from gristmill.pipelines.sources.row_builder import ENDINGS
from gristmill.pipelines.sources.values import ending_of, is_address
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
PACKED = (".gz", ".bz2", ".xz", ".zst", ".lz4")
_PARQUET = b"PAR1"
# Thumbnails of a Synology, what a Mac packs, what Windows throws away.
_OF_MACHINES = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini")
# Bytes that tell the format of a file.
_HEAD = 2**16


def format_of(name: str) -> str | None:
    """The format that a file's ending stands for, packed or not."""
    lower = name.lower()
    if lower.endswith(TAR_ENDINGS):
        return "tars"
    bare = next((lower.removesuffix(end) for end in PACKED if lower.endswith(end)), lower)
    found = _BY_ENDING.get(bare[bare.rfind(".") :] if "." in bare else "")
    # Parquet is packed within.
    return None if found == "parquet" and bare != lower else found


def format_by_content(url: str) -> str | None:
    """The format of a file whose name tells none, such as `part-00000` or `list.gz`, by its first
    bytes; None if these tell none either."""
    with open_url(url) as file:
        if file.read(len(_PARQUET)) == _PARQUET:
            return "parquet"
        file.seek(0)
        try:
            head = (unpack(file) or file).read(_HEAD)
        except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError) as error:
            if isinstance(error, OSError) and not is_of_content(error):
                raise
            return None
    if head[257:262] == b"ustar":
        return "tars"
    if head.startswith(b"WARC/"):
        return "warc"
    try:
        # The last character may be cut.
        text = head.decode("utf-8-sig", "strict" if len(head) < _HEAD else "ignore")
    except UnicodeDecodeError:
        return None
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines or "\0" in text:
        return None
    if lines[0].lstrip()[0] in "{[":
        return "jsonl"
    if "\t" in lines[0]:
        return "tsv"
    if all(is_address(line) and len(line.split()) == 1 for line in lines):
        return "txt"
    return "csv" if "," in lines[0] else None


def expand(path: str) -> list[str]:
    """URLs that a path stands for. What exists under the very name is meant; else globs are
    expanded, sorted, without dot files."""
    if not path.strip():
        raise SourceError("a source without a path; write one behind its format, as csv:list.csv")
    try:
        fs, plain = locate(path)
        there = entry_type(fs, plain)
    except (ImportError, NotImplementedError, ValueError) as error:
        raise SourceError(f"{path}: {error}") from error
    if there:
        found = [plain]
    elif any(mark in plain for mark in "*?["):
        shown = plain.rpartition("/")[2].startswith((".", "_"))
        found = [name for name in matching(fs, plain) if shown or not is_mark(name)]
        if not found:
            raise SourceError(f"no file matches {path}")
    else:
        raise SourceError(f"{path} does not exist; is the path right?")
    local = Folder(path).is_local
    return [name if local else str(fs.unstrip_protocol(name)) for name in found]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden by a dot, as a Mac's `._0.parquet` is, or is a machine's
    own."""
    base = name.rstrip("/").rpartition("/")[2]
    return base.startswith(".") or base in _OF_MACHINES


def is_mark(name: str) -> bool:
    """Whether it is hidden, or a mark that writers of tables leave beside them: `_SUCCESS`,
    `_metadata`, `_delta_log`."""
    base = name.rstrip("/").rpartition("/")[2]
    return is_hidden(base) or (base.startswith("_") and "." not in base)


def split_paths(path: str, named_format: Callable[[str], tuple[str, str]]) -> list[str]:
    """Paths between commas; a comma may be part of a name that exists."""
    pieces, found = path.split(","), []
    while pieces:
        longer = range(len(pieces), 1, -1)
        count = next((n for n in longer if _is_there(pieces[:n], named_format)), 1)
        found.append(",".join(pieces[:count]).strip())
        pieces = pieces[count:]
    # Nothing between two commas is no path, least of all the folder that we are in.
    return [one for one in found if one]


def _is_there(pieces: Sequence[str], named_format: Callable[[str], tuple[str, str]]) -> bool:
    if any("://" in piece for piece in pieces[1:]):
        # Where another URL begins, another path does.
        return False
    fs, plain = locate(named_format(",".join(pieces).strip())[1])
    return entry_type(fs, plain) is not None


def detect(kind: str, url: str) -> list[tuple[str, str]]:
    """(format, URL) of what lies at a URL."""
    if is_folder(url):
        return _detect_folder(kind, url)
    if kind not in ("auto", "parquet"):
        return [(kind, url)]
    found = kind if kind != "auto" else format_of(url) or format_by_content(url)
    if found is None:
        raise SourceError(
            f"{url}: the format cannot be told, neither by its ending nor by what is in it; write "
            f"e.g. csv:{url} "
            f"(formats: {', '.join(FORMATS[1:])})"
        )
    if found == "parquet":
        with open_url(url) as file:
            schema = open_parquet(url, file).schema_arrow
        found = "hf" if image_column(schema) is not None else "parquet"
    if found == "coco" and kind == "auto":
        found = json_format(url)
    return [(found, url)]


def _detect_folder(kind: str, url: str) -> list[tuple[str, str]]:
    folder = Folder(url)
    if kind in ("folder", "img2dataset"):
        return [(kind, url)]
    names = [name for name in folder.names() if not is_mark(name)]
    files = _without_folders(folder, names)
    tars = [name for name in files if format_of(name) == "tars"]
    parquets = [name for name in names if format_of(name) == "parquet"]
    if kind == "auto" and (tables := _metadata(folder, names, files)):
        return [pair for name in tables for pair in detect("auto", folder.join_url(name))]
    if kind == "auto" and _pairs(names, set(names) - set(files)):
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
    return (_below(folder) if kind == "auto" else []) or [("folder", url)]


def _below(folder: Folder) -> list[tuple[str, str]]:
    """Tars, else tables, below a folder without pictures, as datasets lie on a hub
    (`data/train-00000-of-00003.parquet`, `train/00000.tar`) or as Spark writes them."""
    names = [name for name in folder.walk() if not any(map(is_mark, name.split("/")))]
    if any(ending_of(name) in ENDINGS[kind] for name in names for kind in ENDINGS):
        return []
    for kind in ("tars", "parquet", *ARCHIVES):
        holding = sorted({name.rpartition("/")[0] for name in names if format_of(name) == kind})
        found = (_detect_folder("auto", folder.join_url(below)) for below in holding)
        if holding:
            return [pair for pairs in found for pair in pairs]
    for kind in ("jsonl", "csv", "tsv"):
        if tables := sorted(name for name in names if format_of(name) == kind):
            return [(kind, folder.join_url(name)) for name in tables]
    return []


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


def img2dataset_pairs(url: str) -> list[tuple[str, str]]:
    """(tar, or folder of files, and parquet) of each shard of an img2dataset output folder."""
    folder = Folder(url)
    names = [name for name in folder.names() if not is_hidden(name)]
    folders = set(names) - set(_without_folders(folder, names))
    return [
        (folder.join_url(shard), folder.join_url(table)) for shard, table in _pairs(names, folders)
    ]


def _pairs(names: Sequence[str], folders: Collection[str]) -> list[tuple[str, str]]:
    """What img2dataset writes side by side: 00000.parquet, and 00000.tar or a folder 00000."""
    found = []
    for table in names:
        stem, dot, ending = table.rpartition(".")
        if dot and ending == "parquet" and table not in folders:
            shards = [n for n in (f"{stem}.tar", stem) if (n in folders) == (n == stem)]
            found += [(shard, table) for shard in shards if shard in names][:1]
    return found
