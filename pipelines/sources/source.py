"""The source of a run: a file, a folder, a glob or a URL, in any of the formats people have."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Self

import pyarrow as pa

from gristmill.errors import ConfigurationError, SourceError
from gristmill.pipelines.locate import forget_listings, is_folder, locate
from gristmill.pipelines.sources.chunks import Chunk, first_rows, rows_of, spread
from gristmill.pipelines.sources.coco import ImageFiles, read_coco
from gristmill.pipelines.sources.columns import ColumnMap
from gristmill.pipelines.sources.delimited import check_delimited, read_delimited
from gristmill.pipelines.sources.files import (
    is_taken,
    place_of,
    read_folder,
    sidecar_names,
    sidecars_of,
    told_apart,
)
from gristmill.pipelines.sources.formats import (
    ARCHIVES,
    FORMATS,
    METADATA,
    detect,
    expand,
    img2dataset_pairs,
    is_hidden,
    split_paths,
)
from gristmill.pipelines.sources.left_aside import counted, other_files, other_pictures
from gristmill.pipelines.sources.lines import (
    check_json_lines,
    read_json_lines,
    read_url_list,
)
from gristmill.pipelines.sources.listed_videos import FilesById
from gristmill.pipelines.sources.parquet import (
    check_parquet,
    parquet_chunks,
    read_parquet,
)
from gristmill.pipelines.sources.row_builder import RowBuilder, is_utf8_name
from gristmill.pipelines.sources.tars import (
    fact_names,
    read_img2dataset,
    read_tar,
    skipped_members,
)
from gristmill.pipelines.sources.values import is_address
from gristmill.pipelines.sources.warc import check_archive, read_warc
from gristmill.pipelines.sources.wat import read_wat
from gristmill.pipelines.stage import ManifestEntry, Read, require_choice, setting
from gristmill.pipelines.storage import Folder
from gristmill.pipelines.tar_samples import DOT_FILES

# Places of which a sample of a source is made.
_PLACES = 20
# Tars that are looked through for members of no sample before anything is read.
_TARS = 3
# JSON files or members that are looked at for columns that were named.
_SIDECARS = 100
# Names of a folder's files that one chunk reads.
_FOLDER_CHUNK = 2_000

# What a file system may say of when a file changed, or which version it is; a hub: its object's id.
_CHANGED = ("mtime", "ETag", "LastModified", "blob_id")
# What rows may be of, and how many make a part of a large source.
_LARGEST_PART = {
    "image": 10_000, "video": 200, "document": 1_000, "pair": 5_000, "text": 10_000,
    "conversation": 5_000,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Source(Read):
    """Rows of image and caption, from URLs or from bytes that lie in the source.

    `path` may name its format: "coco:captions.json", "tars:s3://bucket/*.tar", "folder:pictures".
    Several paths are separated by commas.
    """

    # 2: the columns of each line are found by its own names; each caption of a list is a row.
    # 3: tables name files; conversations have their first answer as caption. 4: lists of videos
    # name ids, frames and objects; what is no stretch is no whole video; files of many places.
    version: ClassVar[int] = 4

    # File, folder, glob or fsspec URL.
    path: str = ""
    # "auto" goes by ending and content.
    format: str = setting("auto", choices=FORMATS)
    # Folder of the pictures that a table (beside which they lie else) or a COCO file names; videos
    # lie there also under the ids that a list has.
    images: str = ""
    # Our column -> theirs, for odd names: {"caption": "TEXT", "url": "link"}.
    columns: Mapping[str, str] = field(default_factory=dict)
    # Name in the `source` column; the path's stem if empty.
    name: str = ""
    # What the rows are of.
    kind: str = setting("image", choices=("image", "video", "text"))
    # Endings that count as pictures (or videos) in a folder; none: the usual ones; "*": every file.
    extensions: tuple[str, ...] = ()
    # Most captions of one image, the first of them; 0: all. They come to lie in one part.
    captions_per_image: int = setting(1_000, unit="captions", low=0, later=True)
    # Pages of crawl archives, and pictures in them, whose headers or meta tags forbid training come
    # in failed; "off": they are taken.
    opt_out: str = setting("header", choices=("header", "off"), later=True)
    # Only about so many rows, the first of places spread over the source; 0: all.
    sample: int = setting(0, unit="rows", low=0)

    def check(self) -> None:
        """Validate the fields."""
        require_choice(self, "format")
        require_choice(self, "kind")
        require_choice(self, "opt_out")
        if not self.path:
            raise ConfigurationError("the source has no path; give one with --source")
        if not is_utf8_name(self.path):
            raise ConfigurationError(
                f"the source {self.path!r} has bytes in its name that are not UTF-8; rename it, or "
                "name its folder"
            )
        if self.path.startswith("catalog:"):
            raise ConfigurationError(
                f"{self.path}: a catalog entry is resolved by the command line or by "
                "gristmill.catalogs.catalog.resolve"
            )

    def largest_part(self) -> int:
        """Rows of a part of a large source."""
        return _LARGEST_PART[self.kind]

    def most_captions(self) -> int:
        """Of one image; 0: all."""
        return self.captions_per_image

    def title(self) -> str:
        """The name in the `source` column."""
        return self.name or _stem(self.path)

    def manifest(self) -> list[ManifestEntry]:
        """Name, size and time of each file, sorted. Raises `SourceError` if there is none."""
        entries: list[ManifestEntry] = []
        for path in (*split_paths(self.path, self._named_format), *filter(None, [self.images])):
            forget_listings(self._named_format(path)[1])
        for url in self._all_files():
            fs, path = locate(url)
            info = fs.info(path)
            modified = next((str(info[name]) for name in _CHANGED if info.get(name)), "")
            name = url.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            entries.append({"name": name, "size": info.get("size"), "modified": modified})
        return sorted(entries, key=lambda entry: entry["name"])

    def chunks(self) -> list[Chunk]:
        """What can be read in parallel, in the order of the source."""
        found = self._all_chunks()
        if not self.sample:
            return found
        chosen = spread(found, min(_PLACES, self.sample))
        each = math.ceil(self.sample / len(chosen))
        return [dataclasses.replace(chunk, rows=each) for chunk in chosen]

    def check_columns(self) -> None:
        """Look at the headers of up to twenty files."""
        tables = [
            (kind, path)
            for kind, path in self._inputs()
            if kind in ("parquet", "hf", "csv", "tsv", "jsonl", *ARCHIVES)
        ]
        for kind, path in spread(tables, _PLACES):
            self._check_columns(kind, path)
        if self.columns and not tables:
            self._check_sidecars()

    def _check_sidecars(self) -> None:
        """What was given must be in some of the first JSON files beside pictures, or in tars."""
        names: set[str] = set()
        inputs = self._inputs()
        for kind, path in spread(inputs, _TARS):
            if kind == "folder":
                _, sidecars, _ = self._folder_names(path)
                names |= sidecar_names(Folder(path), sorted(sidecars)[:_SIDECARS])
            elif kind == "tars":
                names |= fact_names(path, _SIDECARS)
            else:
                return
        columns = ColumnMap(self.columns, self.kind)
        columns.check_given(sorted(names), f"the JSON of {inputs[0][1]}")

    def _check_columns(self, kind: str, path: str) -> None:
        rows = RowBuilder(self.title(), self.kind)
        columns = ColumnMap(self.columns, self.kind)
        if kind in ("parquet", "hf"):
            check_parquet(path, columns, rows)
        elif kind == "jsonl":
            check_json_lines(path, columns, rows)
        elif kind in ARCHIVES:
            check_archive(path, kind, self.kind)
        else:
            check_delimited(path, "\t" if kind == "tsv" else ",", columns, rows)

    def estimate_rows(self) -> int | None:
        """About how many rows the whole source has, without reading them; None if only reading
        would tell."""
        total = 0
        for chunk in self._all_chunks():
            count = rows_of(chunk)
            if count is None:
                return None
            total += count
        return total

    def _all_chunks(self) -> list[Chunk]:
        found = list(self._each_chunk())
        if not found:
            raise SourceError(f"{self.path} has nothing to read; is the path right?")
        return found

    def _each_chunk(self) -> Iterator[Chunk]:
        inputs = self._inputs()
        places = told_apart(() if self.images else (place_of(*one) for one in inputs))
        for kind, path in inputs:
            place = places.get(place_of(kind, path), "")
            if kind == "folder":
                names = self._folder_names(path)[0]
                for i in range(0, len(names), _FOLDER_CHUNK):
                    yield Chunk(kind, (path, *names[i : i + _FOLDER_CHUNK]), place=place)
            elif kind == "img2dataset":
                yield from (Chunk(kind, pair) for pair in img2dataset_pairs(path))
            elif kind in ("parquet", "hf"):
                for groups in parquet_chunks(path):
                    yield Chunk(kind, (path,), groups, place=place)
            else:
                yield Chunk(kind, (path,), place=place)

    def first_tables(self) -> Iterator[pa.Table]:
        """Tables of rows from the beginning on; only files that are asked for are opened."""
        for chunk in self._each_chunk():
            yield from self.read(chunk)

    def is_of_text(self) -> bool:
        """Whether values are texts whatever they mean."""
        return next(self._each_chunk()).format in ("csv", "tsv")

    def read(self, chunk: Chunk) -> Iterator[pa.Table]:
        """Tables of rows; memory is bounded by one picture, or one COCO file."""
        tables = self._read(chunk)
        return first_rows(tables, chunk.rows) if chunk.rows else tables

    def _read(self, chunk: Chunk) -> Iterator[pa.Table]:
        first, columns = chunk.files[0], ColumnMap(self.columns, self.kind)
        named = self._named_files(first), self._by_id, chunk.place
        rows = RowBuilder(self.title(), self.kind, *named)
        if chunk.format == "folder":
            _, sidecars, _ = self._folder_names(first)
            return read_folder(Folder(first), list(chunk.files[1:]), sidecars, columns, rows)
        if chunk.format in ("parquet", "hf"):
            return read_parquet(first, chunk.groups, columns, rows)
        if delimiter := {"csv": ",", "tsv": "\t"}.get(chunk.format):
            return read_delimited(first, delimiter, columns, rows)
        if chunk.format == "jsonl":
            return read_json_lines(first, columns, rows)
        if chunk.format == "txt":
            return read_url_list(first, rows)
        if chunk.format == "coco":
            return read_coco(first, ImageFiles(Folder(self.images)) if self.images else None, rows)
        if chunk.format == "warc":
            return read_warc(first, rows, opt_out=self.opt_out == "header")
        if chunk.format == "wat":
            return read_wat(first, rows, opt_out=self.opt_out == "header")
        if chunk.format == "img2dataset":
            return read_img2dataset(first, chunk.files[1], columns, rows)
        return read_tar(first, columns, rows)

    @functools.cached_property
    def _by_id(self) -> FilesById | None:
        """One for all chunks: its folder is walked once."""
        return FilesById(Folder(self.images)) if self.images and self.kind == "video" else None

    def _named_files(self, table: str) -> Folder | None:
        """Below which lie the files that a table names: what was given, else where it lies itself.
        What a web server says of its own files is for the download."""
        if self.images:
            return Folder(self.images)
        above, slash, _ = table.rpartition("/")
        return None if is_address(table) else Folder(above or slash or ".")

    def notes(self) -> list[str]:
        """Files of a folder that were taken neither for what the rows are of nor for sidecars, and
        members of the first tars that belong to no sample."""
        notes = []
        inputs = self._inputs()
        for path in self._folders():
            if ("folder", path) in inputs:
                _, _, ignored = self._folder_names(path)
                counts = counted(ignored)
                if counts:
                    notes.append(
                        f"{path}: not taken for {self.kind}s: {counts} "
                        "(take all with --set source.extensions=*)"
                    )
            elif tables := [url for _, url in inputs if url.rpartition("/")[2] in METADATA]:
                notes.append(f"{path}: only pictures that {', '.join(tables)} names are read")
            elif counts := counted(other_files(path, self._all_files())):
                notes.append(f"{path}: not read: {counts}")
        table = next((url for kind, url in inputs if kind == "hf"), None)
        if table is not None:
            notes += other_pictures(table, self.columns.get("image"), self.kind)
        tars = [url for kind, url in inputs if kind == "tars"][:_TARS]
        skipped = sum(map(skipped_members, tars))
        if skipped:
            notes.append(f"{tars[0]} and the like: {skipped} {DOT_FILES} skipped")
        return notes

    def absolute(self) -> Self:
        """The same source, by paths that mean the same in any folder."""
        paths = []
        for path in split_paths(self.path, self._named_format):
            rest = self._named_format(path)[1]
            paths.append(path[: len(path) - len(rest)] + _absolute(rest))
        images = _absolute(self.images) if self.images else ""
        return dataclasses.replace(self, path=",".join(paths), images=images)

    def _folders(self) -> list[str]:
        """Folders that were given, rather than files."""
        urls = [
            url
            for path in split_paths(self.path, self._named_format)
            for url in expand(self._named_format(path)[1])
        ]
        return [url for url in urls if is_folder(url)]

    def _inputs(self) -> list[tuple[str, str]]:
        """(format, URL) of each file or folder, in order."""
        found: list[tuple[str, str]] = []
        for path in split_paths(self.path, self._named_format):
            kind, path = self._named_format(path)
            for url in expand(path):
                found += [(k, u) for k, u in detect(kind, url)]
        if not found:
            raise SourceError(f"nothing at {self.path}; is the path right?")
        return found

    def _named_format(self, path: str) -> tuple[str, str]:
        prefix, colon, rest = path.partition(":")
        if colon and prefix in FORMATS and not rest.startswith("//"):
            return prefix, rest
        return self.format, path

    def _all_files(self) -> list[str]:
        files: list[str] = []
        for kind, path in self._inputs():
            if kind == "folder":
                files += _files_of(path)
            elif kind == "img2dataset":
                for shard, table in img2dataset_pairs(path):
                    files += [*_files_of(shard), table]
            else:
                files.append(path)
        return files + (_files_of(self.images) if self.images else [])

    def _folder_names(self, path: str) -> tuple[list[str], dict[str, int], list[str]]:
        """Pictures, sidecars (each with the number of pictures that it may be of) and what is
        ignored in a folder."""
        names = Folder(path).walk()
        shown = [name for name in names if not any(map(is_hidden, name.split("/")))]
        pictures = [name for name in shown if is_taken(name, self.extensions, self.kind)]
        wanted = Counter(n for name in pictures for files in sidecars_of(name) for n in files)
        taken = set(pictures)
        sidecars = {name: wanted[name] for name in shown if name in wanted and name not in taken}
        return pictures, sidecars, [n for n in names if n not in taken and n not in sidecars]


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _files_of(url: str) -> list[str]:
    """A file itself, or all below a folder."""
    if not is_folder(url):
        return [url]
    folder = Folder(url)
    return [folder.join_url(name) for name in folder.walk()]


def _stem(path: str) -> str:
    """Name of a source: the last part of its path without format, ending and glob marks."""
    last = path.split(",")[0].rstrip("/").rpartition("/")[2]
    last = last.rpartition(":")[2]
    stem = "".join(c for c in last.split(".")[0] if c.isalnum() or c in "-_")
    return stem or "source"
