"""Readers of picture files: a folder with sidecars, and COCO captions with a folder beside them."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterator, Mapping

import fsspec
import pyarrow as pa

from gristmill.errors import SourceError
from gristmill.pipelines.schema import FAILED_TO_DOWNLOAD
from gristmill.pipelines.sources.pointer import file_pointer
from gristmill.pipelines.sources.row_builder import (
    ENDINGS,
    RowBuilder,
    SourceRow,
    ending_of,
    url_row,
)
from gristmill.pipelines.storage import Folder

OUTSIDE = "path leaves the folder"


def is_taken(name: str, extensions: tuple[str, ...], kind: str) -> bool:
    """Whether a file counts as a picture, or a video; `extensions` ("*" for all) replaces the usual
    ones."""
    if extensions:
        wanted = {extension.lower().lstrip(".") for extension in extensions}
        return "*" in extensions or ending_of(name) in wanted
    return ending_of(name) in ENDINGS[kind]


def resolve_inside(folder: Folder, name: str) -> str | None:
    """URL of `name` below `folder`, or None if it leads out of it, by `..` or by a link."""
    normal = posixpath.normpath(name.replace("\\", "/"))
    if normal.startswith(("/", "../")) or normal == ".." or ":" in normal.split("/")[0]:
        return None
    path = folder.local_path(normal)
    if path is not None:
        root = os.path.realpath(folder.path)
        if os.path.commonpath([root, os.path.realpath(path)]) != root:
            return None
    return folder.join_url(normal)


def read_folder(
    folder: Folder, names: list[str], sidecars: set[str], rows: RowBuilder
) -> Iterator[pa.Table]:
    """Rows of picture files; `x.txt` is the caption of `x.jpg`, `x.json` its caption and facts."""
    for name in names:
        stem = name.rpartition(".")[0] or name
        values: dict[str, object] = {}
        if f"{stem}.json" in sidecars:
            values = _sidecar_json(folder, f"{stem}.json")
        mapping = rows.map_columns({}, [key for key in values if key != "url"], name)
        facts = {ours: values[theirs] for ours, theirs in mapping.items() if ours != "path"}
        used = {theirs for ours, theirs in mapping.items() if ours != "path"}
        meta = {key: value for key, value in values.items() if key not in used}
        if f"{stem}.txt" in sidecars:
            facts["caption"] = folder.read_bytes(f"{stem}.txt").decode("utf-8", "replace").strip()
        rows.add(file_row(folder, name).saying(facts, meta))
        yield from rows.take()
    yield from rows.take(all_rows=True)


def file_row(folder: Folder, name: str) -> SourceRow:
    """The row of a file below `folder`; one that leads out of it comes in failed."""
    url = resolve_inside(folder, name)
    if url is None:
        return SourceRow(kind="path", locator=name, status=FAILED_TO_DOWNLOAD, error=OUTSIDE)
    return SourceRow(kind="path", locator=name, pointer=file_pointer(url))


def _sidecar_json(folder: Folder, name: str) -> dict[str, object]:
    try:
        values = json.loads(folder.read_bytes(name))
    except ValueError:
        return {"sidecar_error": "broken json"}
    return values if isinstance(values, dict) else {"sidecar": values}


def read_coco(
    url: str, images: Folder | None, known: Mapping[str, str], rows: RowBuilder
) -> Iterator[pa.Table]:
    """One row for each caption of a COCO captions file; a picture without any is one row.

    `known`: file name -> path below `images`, so that train2017/ and val2017/ below it are found.
    """
    with fsspec.open(url, "rb") as file:
        try:
            document = json.load(file)
        except ValueError as error:
            raise SourceError(f"{url} is not JSON: {error}") from error
    if not isinstance(document, dict) or "images" not in document:
        raise SourceError(f"{url} has no 'images'; is it a COCO captions file?")
    licences = {entry.get("id"): entry.get("name") for entry in document.get("licenses", [])}
    captions: dict[object, list[tuple[object, object]]] = {}
    for annotation in document.get("annotations", []):
        text = annotation.get("caption")
        captions.setdefault(annotation.get("image_id"), []).append((annotation.get("id"), text))
    for image in document["images"]:
        meta = {
            key: value
            for key, value in image.items()
            if key not in ("width", "height", "license", "coco_url")
        }
        facts = {
            "width": image.get("width"),
            "height": image.get("height"),
            "licence": licences.get(image.get("license")),
        }
        for annotation_id, text in captions.get(image.get("id"), [(None, None)]):
            own = meta if annotation_id is None else {**meta, "annotation_id": annotation_id}
            name = str(image.get("file_name", ""))
            row = (
                url_row(image.get("coco_url") or image.get("flickr_url"))
                if images is None
                else file_row(images, known.get(name.rpartition("/")[2], name))
            )
            rows.add(row.saying({**facts, "caption": text}, own))
        yield from rows.take()
    yield from rows.take(all_rows=True)
