"""Captions that many rows share, word for word or nearly: MinHash-LSH, verified exactly.

A caption is its words, in lower case; what two have in common is measured on runs of `shingle`
words (Broder 1997). Candidates meet in a band of their MinHash signatures; their Jaccard similarity
is then computed exactly, in crowded buckets with their leaders (see `bucket_pairs`). Everything is
written as facts, so that a rule decides:

- `caption_group_rank > 0`: one row for each near-duplicate caption;
- `caption_copies > 100`: what is said of more than a hundred pictures describes none;
- `caption_copy_rank >= 10`: ten rows of each repeated caption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError
from gristmill.pipelines.dedup.bucket_pairs import join_buckets
from gristmill.pipelines.dedup.connected_components import Edges, components, leaders, places
from gristmill.pipelines.dedup.image_ids import best_of_rows, digests, hex_digests, preference
from gristmill.pipelines.dedup.minhash import (
    Shingles,
    caption_words,
    minhash,
    shingle_hashes,
)
from gristmill.pipelines.dedup.part_arrays import (
    NO_DIGESTS,
    NO_NUMBERS,
    NO_PAIRS,
    Joined,
    Kind,
    PartArrays,
    of_new_parts,
    rows_of_parts,
)
from gristmill.pipelines.dedup.standing import Standing
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Global, Needs, Phase, Workspace, setting


@dataclass(frozen=True, kw_only=True)
class CaptionDuplicates(Global):
    """Groups of equal and nearly equal captions, and each row's place in its group.

    With 20 bands of 6 a pair of Jaccard 0.8 is met with probability 0.997, one of 0.5 with 0.27.
    """

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("rensa", "scipy")

    # Words in a shingle; the ends of the caption count as words.
    shingle: int = setting(2, unit="words", low=1)
    # Jaccard similarity from which captions are near-duplicates.
    threshold: float = setting(0.8, low=0, high=1)
    # Bands of a signature: more meet more pairs, and cost more.
    bands: int = setting(20, low=1)
    # Rows of a band: more meet fewer pairs that are not alike.
    band_rows: int = setting(6, low=1)
    # Columns that say which row of a group comes first, higher is better.
    prefer: tuple[str, ...] = ("clip_score",)
    # Of the signatures.
    seed: int = 0

    def reads(self) -> tuple[str, ...]:
        """The caption, whose it is, and what is preferred."""
        return ("uid", "caption", *self.prefer)

    def writes(self) -> pa.Schema:
        """Of rows without a caption: no group, counts of 0."""
        return pa.schema(
            [
                pa.field("caption_group", pa.string()),
                pa.field("caption_group_size", pa.int32()),
                pa.field("caption_group_rank", pa.int32()),
                pa.field("caption_jaccard", pa.float32()),
                pa.field("caption_copies", pa.int32()),
                pa.field("caption_copy_rank", pa.int32()),
                pa.field("caption_capped", pa.bool_()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "caption_group": ColumnFacts(
                "Digest of the commonest caption of the group; null without a caption."
            ),
            "caption_group_size": ColumnFacts("Rows in the group.", "rows", low=1),
            "caption_group_rank": ColumnFacts("The row's place in the group, from 0.", low=0),
            "caption_jaccard": ColumnFacts(
                "Jaccard similarity to the commonest caption of the group.", low=0, high=1
            ),
            "caption_copies": ColumnFacts("Rows with the very same words.", "rows", low=1),
            "caption_copy_rank": ColumnFacts("The row's place among those, from 0.", low=0),
            "caption_capped": ColumnFacts(
                "Whether so many captions met it that it was compared with some of them alone; it "
                "may be nearer to others than is said."
            ),
        }

    def needs(self) -> Needs:
        """Signatures of one band, shingles of all."""
        return Needs(memory_gb=2.0)

    def check(self) -> None:
        """Validate the numbers."""
        if min(self.shingle, self.bands, self.band_rows) < 1:
            raise ConfigurationError("shingle, bands and band_rows must be at least 1")
        if not 0 < self.threshold <= 1:
            raise ConfigurationError(f"threshold is {self.threshold}; it lies in (0, 1]")

    def phases(self) -> tuple[Phase, ...]:
        """Signatures, distinct texts, pairs by band, groups."""
        return (
            Phase(name="signatures", count=lambda w: w.parts, work=of_new_parts(self._signatures)),
            Phase(name="texts", count=lambda _: 1, work=self._texts),
            Phase(name="pairs", count=lambda _: self.bands, work=self._pairs),
            Phase(name="groups", count=lambda _: 1, work=self._groups),
        )

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """What is known of a part's rows."""
        found = workspace.load_part("decided", part)
        there = found["is_caption"]
        group = hex_digests(found["group"]).to_pylist()
        columns: list[pa.Array | NDArray[np.generic]] = [pa.array(group, pa.string(), mask=~there)]
        for name in ("group_size", "group_rank", "jaccard", "copies", "copy_rank", "capped"):
            values = found[name]
            columns.append(pa.array(values, mask=~there) if name == "jaccard" else values)
        return pa.table(columns, schema=self.writes())

    # -- phases ---------------------------------------------------------------------------------

    def _signatures(self, workspace: Workspace, part: int) -> None:
        """The distinct captions of a part: digests, shingles, and MinHash signatures."""
        table = workspace.rows(part, self.reads())
        words = [caption_words(caption) for caption in table["caption"].to_pylist()]
        known: dict[str, int] = {}
        row_text = np.array(
            [known.setdefault(" ".join(w), len(known)) if w is not None else -1 for w in words],
            np.int64,
        )
        shingles = [shingle_hashes(text.split(" "), self.shingle) for text in known]
        ends = np.cumsum([len(s) for s in shingles]).astype(np.int64)
        flat = np.concatenate([np.zeros(0, np.uint64), *shingles])
        texts = [xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass")) for text in known]
        every = np.arange(len(table))
        PartArrays(workspace, "rows").save(
            part,
            uids=digests(table["uid"]),
            preferred=best_of_rows(table, self.prefer, every, len(table)),
        )
        PartArrays(workspace, "captions").save(
            part,
            row_text=row_text,
            texts=digests(pa.chunked_array([pa.array(texts, pa.string())])),
            shingles=flat,
            ends=ends,
            minhash=minhash(flat, ends, self.bands * self.band_rows, self.seed),
        )

    def _texts(self, workspace: Workspace, _: int) -> None:
        """Distinct captions of all parts, ordered by digest, so that parts do not matter."""
        saved = PartArrays(workspace, "captions").join(
            row_text=NO_NUMBERS,
            texts=NO_DIGESTS,
            shingles=np.zeros(0, np.uint64),
            ends=NO_NUMBERS,
            minhash=np.zeros((0, self.bands * self.band_rows), np.uint32),
        )
        workspace.save("row_starts", saved.starts["row_text"])
        texts, first, number = np.unique(
            saved["texts"], axis=0, return_index=True, return_inverse=True
        )
        workspace.save("texts", texts)
        caption = saved.numbered("row_text", "texts")
        row_text = np.where(caption >= 0, _taken(number.reshape(-1), np.maximum(caption, 0)), -1)
        workspace.save("row_text", row_text.astype(np.int64))
        copies = np.bincount(row_text[row_text >= 0], minlength=len(texts)).astype(np.int64)
        workspace.save("copies", copies)
        workspace.save("minhash", saved["minhash"][first])
        self._join_shingles(workspace, saved, first)

    def _join_shingles(self, workspace: Workspace, saved: Joined, first: NDArray[np.int64]) -> None:
        """Shingles of the distinct captions, which are the `first` of their kind among all, end to
        end: numbered densely, so that a sparse matrix is no wider than they are many."""
        tasks = np.split(saved["ends"], saved.starts["ends"][1:-1])
        lengths = np.concatenate([NO_NUMBERS, *[np.diff(ends, prepend=0) for ends in tasks]])
        flat = saved["shingles"]
        begin = np.concatenate([[0], np.cumsum(lengths)])
        chosen = begin[first]
        ends = np.cumsum(lengths[first]).astype(np.int64)
        index = np.repeat(chosen - np.concatenate([[0], ends[:-1]]), lengths[first])
        dense = np.unique(flat[index + np.arange(len(index))], return_inverse=True)[1]
        workspace.save("shingles", dense.astype(np.int32))
        workspace.save("ends", ends)

    def _pairs(self, workspace: Workspace, band: int) -> None:
        """Verified pairs that meet in one band, thinned to what the components need."""
        minhash = workspace.load("minhash")
        edges, capped = Edges(), NO_NUMBERS
        if len(minhash):
            shingles = Shingles(workspace.load("shingles"), workspace.load("ends"))
            keys = np.ascontiguousarray(minhash[:, band * self.band_rows :][:, : self.band_rows])
            key = np.array([xxhash.xxh3_64_intdigest(row.tobytes()) for row in keys], np.uint64)
            capped = join_buckets(key, lambda a, b: shingles.jaccard(a, b) >= self.threshold, edges)
        PartArrays(workspace, "pairs").save(band, edges=edges.forest(), capped=capped)

    def _groups(self, workspace: Workspace, _: int) -> None:
        """Components of captions, the commonest of each, and the places of rows."""
        texts, copies = workspace.load("texts"), np.asarray(workspace.load("copies"))
        count = len(texts)
        pairs = PartArrays(workspace, "pairs", self.bands).join(edges=NO_PAIRS, capped=NO_NUMBERS)
        group = components(pairs["edges"], count)
        row_starts, row_text = workspace.load("row_starts"), np.asarray(workspace.load("row_text"))
        stands = Standing(workspace, row_starts, row_text, count)
        keys = [texts[:, 1], texts[:, 0], -copies, stands.rank]
        leader, _size = leaders(group, keys)
        capped = np.zeros(count, bool)
        capped[pairs["capped"]] = True
        jaccard = (
            Shingles(workspace.load("shingles"), workspace.load("ends")).jaccard(
                np.arange(count), leader
            )
            if count
            else np.zeros(0)
        )
        size = np.bincount(group, copies, minlength=count)[group] if count else np.zeros(0)
        saved = PartArrays(workspace, "rows").join(
            uids=NO_DIGESTS, preferred=np.zeros((0, len(self.prefer)))
        )
        rows = np.arange(len(row_text))
        row_rank = Standing(workspace, row_starts, rows, len(row_text)).rank
        keys = [*preference(saved["uids"], saved["preferred"]), row_rank]
        there, text = row_text >= 0, np.maximum(row_text, 0)
        # Of each row, not of each caption: no row's fact is looked for elsewhere.
        facts = {
            "is_caption": there,
            "group": _taken(stands.digests("caption_group", texts)[leader], text),
            "jaccard": _taken(jaccard.round(5).astype(np.float32), text),
            "capped": _taken(capped, text) & there,
            **{
                name: np.where(there, values, 0).astype(np.int32)
                for name, values in (
                    ("group_size", _taken(size, text)),
                    ("group_rank", places(_taken(leader, text), keys)),
                    ("copies", _taken(copies, text)),
                    ("copy_rank", places(row_text, keys)),
                )
            },
        }
        starts = workspace.load("row_starts")
        workspace.save_parts("decided", rows_of_parts(starts, np.arange(len(text)), **facts))


def _taken(values: NDArray[Kind], index: NDArray[np.int64]) -> NDArray[Kind]:
    """values[index], and zeros if there are no values."""
    return values[index] if len(values) else np.zeros((len(index), *values.shape[1:]), values.dtype)
