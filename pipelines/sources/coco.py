"""Reader of COCO captions, with a folder of pictures beside them or their URLs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from gristmill.errors import SourceError
from gristmill.pipelines.locate import open_url
from gristmill.pipelines.schema import FAILED_TO_DOWNLOAD
from gristmill.pipelines.sources.add_rows import add_broken
from gristmill.pipelines.sources.files import named_file_row, resolve_inside
from gristmill.pipelines.sources.reasons import (
    AMBIGUOUS_NAME,
    BROKEN_ENTRY,
    NO_FILE_NAME,
    NO_IMAGE_OF_ID,
    REPEATED_IMAGE_ID,
    TWO_KEYS,
)
from gristmill.pipelines.sources.row_builder import RowBuilder, SourceRow, url_row
from gristmill.pipelines.sources.values import BrokenJson, load_json
from gristmill.pipelines.storage import Folder

Entry = Mapping[str, object]


class ImageFiles:
    """Files of a folder by the names that a table gives them."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._paths: set[str] = set()
        self._by_base: dict[str, list[str]] = {}
        for path in folder.walk():
            self._paths.add(path)
            self._by_base.setdefault(_base(path), []).append(path)

    def row(self, name: str, namesakes: int) -> SourceRow:
        """The row of a file: at the exact path, else of that end of a path, else of that base name,
        if only one file has it and only one is named so (`namesakes`). So train2017/ below the
        folder is found, and no picture gets the caption of another."""
        if name in self._paths:
            return named_file_row(self.folder, name)
        same = self._by_base.get(_base(name), [])
        ends = [path for path in same if path.endswith(f"/{name.removeprefix('./')}")]
        found = ends if ends else (same if namesakes == 1 else [])
        if len(found) == 1:
            return replace(named_file_row(self.folder, found[0]), locator=found[0])
        row = named_file_row(self.folder, name)
        if len(found) > 1 and resolve_inside(self.folder, name) is not None:
            row = replace(row, pointer=None, status=FAILED_TO_DOWNLOAD, error=AMBIGUOUS_NAME)
        return row


def _base(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


@dataclass
class _Captions:
    """The parts of a COCO file."""

    images: list[Entry] = field(default_factory=list)
    # Image id -> (annotation id, caption).
    captions: dict[object, list[tuple[object, object]]] = field(default_factory=dict)
    licences: dict[object, object] = field(default_factory=dict)
    # What cannot be read, with its reason.
    broken: list[tuple[object, str]] = field(default_factory=list)


def read_coco(url: str, files: ImageFiles | None, rows: RowBuilder) -> Iterator[pa.Table]:
    """One row for each caption of a COCO captions file; a picture without any is one row, and so is
    a caption without picture, with its reason."""
    document = _parse(url)
    ids = Counter(_key(image.get("id")) for image in document.images)
    names = {str(image.get("file_name") or "") for image in document.images}
    namesakes = Counter(_base(name) for name in names)
    for image in document.images:
        row = _image_row(image, files, namesakes)
        key = _key(image.get("id"))
        if ids[key] > 1:
            row = replace(
                row, pointer=None, status=FAILED_TO_DOWNLOAD, error=row.error or REPEATED_IMAGE_ID
            )
        _add_captions(rows, row, image, document)
        yield from rows.take()
    for key in document.captions.keys() - ids.keys():
        document.broken += [(content, NO_IMAGE_OF_ID) for content in document.captions[key]]
    for content, reason in sorted(document.broken, key=str):
        add_broken(rows, content, FAILED_TO_DOWNLOAD, reason, {"entry": content})
        yield from rows.take()
    yield from rows.take(all_rows=True)


def _image_row(image: Entry, files: ImageFiles | None, namesakes: Mapping[str, int]) -> SourceRow:
    if files is None:
        return url_row(image.get("coco_url") or image.get("flickr_url"))
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        locator = json.dumps(image.get("id"), sort_keys=True)
        return SourceRow(
            kind="path", locator=locator, status=FAILED_TO_DOWNLOAD, error=NO_FILE_NAME
        )
    return files.row(name, namesakes[_base(name)])


def _add_captions(rows: RowBuilder, row: SourceRow, image: Entry, document: _Captions) -> None:
    taken = ("width", "height", "license", "coco_url")
    meta = {key: value for key, value in image.items() if key not in taken}
    facts = {
        "width": image.get("width"),
        "height": image.get("height"),
        "licence": document.licences.get(_key(image.get("license"))),
    }
    for annotation, text in document.captions.get(_key(image.get("id")), [(None, None)]):
        own = meta if annotation is None else {**meta, "annotation_id": annotation}
        rows.add(row.saying({**facts, "caption": text}, own))


def _parse(url: str) -> _Captions:
    with open_url(url) as file:
        try:
            document = load_json(file.read())
        except BrokenJson as error:
            if str(error) == TWO_KEYS:
                raise SourceError(
                    f"{url} has an object with {TWO_KEYS}; which of them counts cannot be told"
                ) from error
            raise SourceError(f"{url} is not JSON: {error.__cause__}") from error
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise SourceError(f"{url} has no list of 'images'; is it a COCO captions file?")
    found = _Captions()
    for image in document["images"]:
        if isinstance(image, dict):
            found.images.append(image)
        else:
            found.broken.append((image, BROKEN_ENTRY))
    for annotation in _listed(url, document, "annotations"):
        if isinstance(annotation, dict):
            pair = (annotation.get("id"), annotation.get("caption"))
            found.captions.setdefault(_key(annotation.get("image_id")), []).append(pair)
        else:
            found.broken.append((annotation, BROKEN_ENTRY))
    for entry in _listed(url, document, "licenses"):
        if isinstance(entry, dict):
            found.licences[_key(entry.get("id"))] = entry.get("name")
    return found


def _listed(url: str, document: Mapping[str, object], name: str) -> Sequence[object]:
    values = document.get(name) or []
    if not isinstance(values, list):
        raise SourceError(f"{url}: {name!r} is no list; is it a COCO captions file?")
    return values


def _key(value: object) -> Hashable:
    """An id that can be looked up, whatever JSON value it is; 1 and "1" are two."""
    return value if isinstance(value, (str, int, float, type(None))) else repr(value)
