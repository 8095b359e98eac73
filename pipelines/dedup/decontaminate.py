"""Samples that an evaluation would find again: near copies of its pictures or captions.

A model that has seen a benchmark is not measured by it. The evaluation sources are read, fetched
and described as the corpus is; every image or caption of the corpus that is a near copy of one is
marked with the item's name, so that a rule drops it (`contaminated_by IS NOT NULL`) and the ledger
says because of what.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError
from gristmill.pipelines.decode import DecodeError, decode_rgb
from gristmill.pipelines.dedup.hamming import close_pairs, plan_tasks
from gristmill.pipelines.dedup.image_duplicates import thumbnail_distance
from gristmill.pipelines.dedup.minhash import (
    Shingles,
    caption_words,
    minhash,
    shingle_hashes,
)
from gristmill.pipelines.dedup.part_arrays import of_new_parts
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.perceptual_hash import THUMBNAIL_BYTES, PerceptualHash
from gristmill.pipelines.schema import SUCCESS, ColumnFacts
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.stage import Global, Needs, Phase, Workspace, setting

_BANDS, _BAND_ROWS = 20, 6
KINDS = ("bytes", "pixels", "near", "caption")
_ITEMS = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("pixel_hash", pa.string()),
        pa.field("phash", pa.uint64()),
        pa.field("thumbnail", pa.binary(THUMBNAIL_BYTES)),
    ]
)


class PictureFacts(TypedDict, total=False):
    """What pictures are compared by: the digest of the bytes, and what `PerceptualHash` says."""

    sha256: str
    pixel_hash: str
    phash: int
    thumbnail: bytes


class Item(PictureFacts):
    """One item of an evaluation; without a picture's facts if it has none."""

    name: str
    caption: str | None


Mark = Callable[[int, int, str], None]
"""Says of a row that it is of the kind `KINDS[i]` and copies the item of that name."""


@dataclass(frozen=True, kw_only=True)
class Decontaminate(Global):
    """The evaluation item that a row's picture or caption is a near copy of.

    Pictures are compared as `Duplicates` compares them (bytes, pixels, hash and thumbnail);
    captions by MinHash and exact Jaccard similarity of word shingles, as `CaptionDuplicates` does.
    """

    libraries: ClassVar[tuple[str, ...]] = ("opencv-python-headless", "rensa", "scipy", "xxhash")

    # Evaluation sets, each what a `Source` takes as its path.
    sources: tuple[str, ...] = ()
    # Column of ours -> theirs, for all of them.
    columns_map: Mapping[str, str] = field(default_factory=dict)
    # Of one of them: its name as above -> column of ours -> theirs.
    columns_of: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict, metadata={"later": True}
    )
    # Evaluation sets of prompts or captions alone: tables, JSON, or a text a line.
    prompts: tuple[str, ...] = setting((), later=True)
    # Folder of the pictures that COCO files name.
    images: str = ""
    # Compare pictures: bytes, pixels, hash and thumbnail.
    compare_images: bool = True
    # Compare captions by their shingles.
    compare_captions: bool = True
    # Bits by which hashes may differ, as in `Duplicates`.
    radius: int = setting(8, unit="bits", low=0, high=64)
    # Difference of thumbnails, as in `Duplicates`.
    thumbnail_tolerance: float = setting(0.25, low=0)
    # Jaccard similarity of captions.
    threshold: float = setting(0.8, low=0, high=1)
    # Words in a shingle.
    shingle: int = setting(2, unit="words", low=1)
    # Captions of fewer are too common to tell anything.
    least_words: int = setting(6, unit="words", low=0)

    def reads(self) -> tuple[str, ...]:
        """Caption, digests, hash and thumbnail."""
        return ("uid", "caption", "sha256", "pixel_hash", "phash", "thumbnail")

    def writes(self) -> pa.Schema:
        """Null for rows that no evaluation knows."""
        return pa.schema(
            [
                pa.field("contaminated_by", pa.string()),
                pa.field("contamination", pa.string()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "contaminated_by": ColumnFacts(
                "Source and name of the evaluation item; null for rows that no evaluation knows."
            ),
            "contamination": ColumnFacts(
                "By what: bytes, pixels, near or caption, the surest that applies."
            ),
        }

    def needs(self) -> Needs:
        """The evaluation's items and one part."""
        return Needs(memory_gb=2.0)

    def files(self) -> tuple[str, ...]:
        """Evaluation sets that lie on this machine."""
        named = self._all()
        paths = [path.partition(":")[2] or path for path in named]
        both = [*named, *paths, self.images]
        return tuple(path for path in both if path and os.path.exists(path))

    def is_disabled(self) -> bool:
        """No evaluation is named."""
        return not self._all()

    def _all(self) -> tuple[str, ...]:
        return (*self.sources, *self.prompts)

    def check(self) -> None:
        """Raise `SourceError` for an evaluation that cannot be read."""
        if not 0 < self.threshold <= 1 or not 0 <= self.radius <= 16 or self.shingle < 1:
            raise ConfigurationError(
                f"threshold {self.threshold}, radius {self.radius}, shingle {self.shingle}: they "
                "lie in (0, 1], 0 to 16, and from 1 on"
            )
        for index in range(len(self._all())):
            source = self._source(index)
            # A benchmark of the catalog is resolved by the command line.
            source.check()
            source.manifest()

    def _source(self, index: int) -> Source:
        path = self._all()[index]
        columns = self.columns_of.get(path, self.columns_map)
        kind = "image" if index < len(self.sources) else "text"
        return Source(path=path, columns=columns, images=self.images, kind=kind)

    def phases(self) -> tuple[Phase, ...]:
        """The items of each evaluation, all of them together, and each part against them."""
        return (
            Phase(
                name="items",
                count=lambda w: 0 if w.before else len(self._all()),
                work=self._items,
            ),
            Phase(name="join", count=lambda _: 1, work=self._join),
            Phase(name="match", count=lambda w: w.parts, work=of_new_parts(self._match)),
        )

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """What was found, for the rows of a part."""
        return workspace.load_table(f"found/{part:06d}")

    # -- the evaluation ---------------------------------------------------------------------------

    def _items(self, workspace: Workspace, index: int) -> None:
        """Names, captions and hashes of one evaluation's items."""
        source = self._source(index)
        tables = [
            self._described(rows, self._all()[index])
            for chunk in source.chunks()
            for rows in source.read(chunk)
        ]
        table = pa.concat_tables(tables) if tables else _ITEMS.empty_table()
        workspace.save_table(f"items/{index:06d}", table)

    def _described(self, rows: pa.Table, source: str) -> pa.Table:
        names = [
            f"{source} {url or pointer or uid}"
            for uid, url, pointer in zip(
                rows["uid"].to_pylist(), rows["url"].to_pylist(), rows["pointer"].to_pylist(),
                strict=True,
            )
        ]  # fmt: skip
        found = {
            uid: (name, caption)
            for uid, name, caption in zip(
                rows["uid"].to_pylist(), names, rows["caption"].to_pylist(), strict=True
            )
        }
        described: dict[str, Item] = {
            uid: {"name": name, "caption": caption} for uid, (name, caption) in found.items()
        }
        if self.compare_images and source in self.sources:
            for uid, facts in _pictures(rows):
                described[uid] = {**described[uid], **facts}
        return pa.Table.from_pylist(list(described.values()), _ITEMS)

    def _join(self, workspace: Workspace, _: int) -> None:
        if workspace.before is not None:
            # Of a list that was added: the items that the first was compared with.
            for name in ("pictures", "texts"):
                workspace.save_table(name, workspace.before.load_table(name))
            return
        tables = [workspace.load_table(f"items/{i:06d}") for i in range(len(self._all()))]
        items = pa.concat_tables(tables).combine_chunks()
        pictures = items.filter(pc.is_valid(items["phash"]))
        workspace.save_table("pictures", pictures)
        if self.compare_images and not len(pictures) and not self.compare_captions:
            raise ConfigurationError(
                f"no picture of {', '.join(self._all())} could be read; are the paths right?"
            )
        texts: dict[str, str] = {}
        for name, caption in zip(
            items["name"].to_pylist(), items["caption"].to_pylist(), strict=True
        ):
            words = caption_words(caption)
            if words and len(words) >= self.least_words:
                texts.setdefault(" ".join(words), name)
        table = pa.table({"text": list(texts), "name": list(texts.values())}, schema=_TEXTS)
        workspace.save_table("texts", table)

    # -- the corpus -------------------------------------------------------------------------------

    def _match(self, workspace: Workspace, part: int) -> None:
        rows = workspace.rows(part, self.reads()).combine_chunks()
        kind = np.full(len(rows), len(KINDS), np.int8)
        name = np.full(len(rows), None, object)

        def mark(row: int, what: int, who: str) -> None:
            # The surest kind, then the first name: nothing depends on the order of finding.
            if what < kind[row] or (what == kind[row] and who < name[row]):
                kind[row], name[row] = what, who

        if self.compare_images:
            self._match_pictures(workspace, rows, mark)
        if self.compare_captions:
            self._match_captions(workspace, rows, mark)
        said = [KINDS[what] if what < len(KINDS) else None for what in kind]
        columns = [rows["uid"], pa.array(name.tolist(), pa.string()), pa.array(said, pa.string())]
        schema = pa.schema([pa.field("uid", pa.string(), nullable=False), *self.writes()])
        workspace.save_table(f"found/{part:06d}", pa.table(columns, schema=schema))

    def _match_pictures(self, workspace: Workspace, rows: pa.Table, mark: Mark) -> None:
        items = workspace.load_table("pictures")
        if not len(items) or not len(rows):
            return
        names = items["name"].to_pylist()
        for what, column in ((0, "sha256"), (1, "pixel_hash")):
            known: dict[str, str] = {}
            for name, digest in zip(names, items[column].to_pylist(), strict=True):
                known[digest] = min(name, known.get(digest, name))
            for row, digest in enumerate(rows[column].to_pylist()):
                if digest in known:
                    mark(row, what, known[digest])
        both = np.concatenate([_hashes(rows), _hashes(items)])
        thumbnails = np.concatenate([_thumbnails(rows), _thumbnails(items)])
        for task in plan_tasks(len(both), self.radius):
            for pairs in close_pairs(both, self.radius, task):
                across = pairs[(pairs[:, 0] < len(rows)) & (pairs[:, 1] >= len(rows))]
                if not len(across):
                    continue
                far = thumbnail_distance(thumbnails[across[:, 0]], thumbnails[across[:, 1]])
                for row, item in across[far <= self.thumbnail_tolerance].tolist():
                    mark(row, 2, names[item - len(rows)])

    def _match_captions(self, workspace: Workspace, rows: pa.Table, mark: Mark) -> None:
        items = workspace.load_table("texts")
        texts: dict[str, list[int]] = {}
        for row, caption in enumerate(rows["caption"].to_pylist()):
            words = caption_words(caption)
            if words and len(words) >= self.least_words:
                texts.setdefault(" ".join(words), []).append(row)
        if not len(items) or not texts:
            return
        names = items["name"].to_pylist()
        sets = [
            shingle_hashes(text.split(" "), self.shingle)
            for text in [*texts, *items["text"].to_pylist()]
        ]
        ends = np.cumsum([len(one) for one in sets]).astype(np.int64)
        flat = np.concatenate(sets)
        signatures = minhash(flat, ends, _BANDS * _BAND_ROWS, 0)
        dense = np.unique(flat, return_inverse=True)[1].astype(np.int32)
        shingles = Shingles(dense, ends)
        ours = list(texts.values())
        pairs = np.unique(np.concatenate(list(_meeting(signatures, len(ours)))), axis=0)
        close = shingles.jaccard(pairs[:, 0], pairs[:, 1] + len(ours)) >= self.threshold
        for text, item in pairs[close].tolist():
            for row in ours[text]:
                mark(row, 3, names[item])


_TEXTS = pa.schema([pa.field("text", pa.string()), pa.field("name", pa.string())])


def _pictures(rows: pa.Table) -> Iterator[tuple[str, PictureFacts]]:
    """(uid, digests and hashes) of the rows whose picture can be had."""
    hasher = PerceptualHash()
    for table in Download().map(rows):
        for row in table.select(["uid", "status", "sha256", "image"]).to_pylist():
            if row["status"] != SUCCESS:
                continue
            try:
                picture = decode_rgb(row["image"])
            except DecodeError:
                continue
            facts: PictureFacts = hasher.score(pa.table({}), [picture]).to_pylist()[0]
            facts["sha256"] = row["sha256"]
            yield row["uid"], facts


def _meeting(signatures: NDArray[np.uint32], ours: int) -> Iterator[NDArray[np.int64]]:
    """Pairs [k, 2] of (one of ours, one of the others) whose signatures agree in a band."""
    yield np.zeros((0, 2), np.int64)
    for band in range(_BANDS):
        rows = np.ascontiguousarray(signatures[:, band * _BAND_ROWS :][:, :_BAND_ROWS])
        keys = np.array([xxhash.xxh3_64_intdigest(row.tobytes()) for row in rows], np.uint64)
        mine, theirs = keys[:ours], keys[ours:]
        order = np.argsort(theirs, kind="stable")
        low = np.searchsorted(theirs[order], mine, side="left")
        high = np.searchsorted(theirs[order], mine, side="right")
        counts = high - low
        left = np.repeat(np.arange(ours), counts)
        shift = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        yield np.stack([left, order[np.repeat(low, counts) + shift]], axis=1).astype(np.int64)


def _hashes(table: pa.Table) -> NDArray[np.uint64]:
    return np.asarray(table["phash"].to_numpy(), np.uint64)


def _thumbnails(table: pa.Table) -> NDArray[np.uint8]:
    data = b"".join(table["thumbnail"].to_pylist())
    return np.frombuffer(data, np.uint8).reshape(-1, THUMBNAIL_BYTES)
