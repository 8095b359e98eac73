"""How rows look in a report: a small picture, frames of a clip side by side, or the pictures of a
document."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.graph import stores_images
from gristmill.dags.reports.report import Thumbnail
from gristmill.pipelines.decode import DecodeError, Image, decode_rgb, encode_jpeg
from gristmill.pipelines.media import MULTI_IMAGE_COLUMNS, explode_pieces
from gristmill.pipelines.stage import Map

_THUMBNAIL, _CELL = 160, 100
# Frames or pictures that one row shows at most.
_STRIP = 4


class RowPictures:
    """Small pictures of rows, as the last Map that made something to look at left them."""

    def __init__(self, layout: RunLayout) -> None:
        self.dag, self.reader = layout.dag, RowReader(layout)
        self.maps = [name for name in self.dag.order() if self._shows(name)]

    def _shows(self, node: str) -> bool:
        stage = self.dag.stage(node)
        if not isinstance(stage, Map):
            return False
        return stores_images(stage) or MULTI_IMAGE_COLUMNS[0] in stage.writes().names

    def load(self, wanted: Sequence[tuple[int, str, str]], end: str = "") -> list[Thumbnail]:
        """Pictures of (part, uid, note) of rows that ended at a node, or reached the end; one that
        has nothing to show has an empty `src`."""
        found: dict[str, tuple[str, str]] = {}
        for part in {part for part, _, _ in wanted}:
            files = self.files(part, [uid for p, uid, _ in wanted if p == part], end)
            found |= {uid: (text, thumbnail_uri(stored)) for uid, (text, stored) in files.items()}
        return [Thumbnail(uid, *found.get(uid, ("", "")), note) for _, uid, note in wanted]

    def files(
        self, part: int, uids: Sequence[str], end: str = ""
    ) -> dict[str, tuple[str, list[bytes]]]:
        """uid -> caption, and the stored files in their order, of rows of a part that ended at a
        node, or reached the end; those that have nothing to show are not in it."""
        above = self.dag.upstream(end) if end else self.maps
        maps = [name for name in self.maps if name in above]
        if not maps:
            return {}
        node = maps[-1]
        stage = self.dag.stage(node)
        several = MULTI_IMAGE_COLUMNS[0] in stage.writes().names
        place = MULTI_IMAGE_COLUMNS if several else ("blob_offset", "blob_size")
        table = self.reader.leaving(node, part, ["caption", *place])
        table = table.filter(pc.is_in(table["uid"], pa.array(uids, pa.string())))
        table = table.append_column("part", pa.array(np.full(len(table), part, np.int32)))
        below = next((n for n in self.dag.order() if node in self.dag.upstream(n)), None)
        if below is None or not len(table):
            return {}
        stored: list[list[bytes]] = [[] for _ in range(len(table))]
        if several:
            owners, pieces = explode_pieces(table)
        else:
            owners, pieces = list(range(len(table))), table
        for owner, data in zip(owners, self.reader.images(below, pieces), strict=True):
            stored[owner].append(data)
        rows = table.select(["uid", "caption"]).to_pylist()
        return {
            row["uid"]: (row["caption"] or "", files)
            for row, files in zip(rows, stored, strict=True)
        }


def thumbnail_uri(files: Sequence[bytes]) -> str:
    """A small JPEG of a row's files as a data: URI; empty if nothing decodes."""
    data = thumbnail(files)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode() if data else ""


def thumbnail(files: Sequence[bytes]) -> bytes:
    """A small JPEG of a row's files; empty if nothing decodes."""
    pictures: list[Image] = []
    for data in files[:_STRIP]:
        pictures += _frames(data)
    if not pictures:
        return b""
    pictures = pictures[:_STRIP]
    shown = _small(pictures[0], _THUMBNAIL)
    if len(pictures) > 1:
        # In reading order, two beside each other.
        shown = np.full((2 * _CELL + 4,) * 2 + (3,), 255, np.uint8)
        for i, picture in enumerate(pictures):
            one = _small(picture, _CELL)
            top, left = (i // 2) * (_CELL + 4), (i % 2) * (_CELL + 4)
            shown[top : top + one.shape[0], left : left + one.shape[1]] = one
        if len(pictures) == 2:
            shown = shown[:_CELL]
    return encode_jpeg(shown, 80)


def _small(picture: Image, side: int) -> Image:
    scale = min(1.0, side / max(picture.shape[:2]))
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _frames(data: bytes) -> list[Image]:
    """A picture, or some frames of a clip; nothing for what does not decode."""
    try:
        return [decode_rgb(data)]
    except DecodeError:
        pass
    from gristmill.pipelines.videos.frames import decode_clip

    try:
        clip = decode_clip(data)
    except ValueError:
        return []
    step = max(1, len(clip.frames) // _STRIP)
    return list(clip.frames[step // 2 :: step][:_STRIP])
