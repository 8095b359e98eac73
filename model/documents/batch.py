"""What a model eats: rows of whole documents, packed. One contract for every paradigm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from gristmill.model.documents.picture_encoding import RawPicture

CAUSAL, FULL, NOISE, DRAFT = 0, 1, 2, 3
"""`attn_mode`: sees what came before; sees its whole span; the same, and is seen by its span alone;
sees what came before, and is seen by its span alone."""
UNDERSTAND, GENERATE = 0, 1
"""`expert` of a position: which of the two of a mixture of transformers."""
IGNORE = -100

Array: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.generic]]
"""Of any shape and type."""


@dataclass(frozen=True)
class LostSample:
    """A sample whose place in a row learns nothing, because it could not be read."""

    # URL of the file that holds it, and its key there.
    shard: str
    key: str
    reason: str


class SemanticSpan(NamedTuple):
    """One picture's semantic patches: their rows and columns, and those of the places that they
    are put in, to which they are resampled where the two differ."""

    grid: tuple[int, int]
    places: tuple[int, int]


def _spans_within(
    spans: Sequence[SemanticSpan], chosen: Array
) -> tuple[list[SemanticSpan], NDArray[np.bool_]]:
    """Of the pictures whose places are chosen the spans, and which patches are theirs. A span lies
    in one row, so it is inside or outside as its first place is."""
    firsts = np.cumsum([0, *(math.prod(span.places) for span in spans)])[:-1]
    inside = np.array([bool(chosen[first]) for first in firsts], bool)
    patches = np.repeat(inside, [math.prod(span.grid) for span in spans])
    return [span for span, kept in zip(spans, inside, strict=True) if kept], patches


@dataclass
class Document:
    """One document of n positions as arrays; the same fields as `PackedBatch`, not yet packed."""

    ids: Int64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    weight: Float32[np.ndarray, " n"]
    span: Int32[np.ndarray, " n"]
    attn_mode: UInt8[np.ndarray, " n"]
    expert: UInt8[np.ndarray, " n"]
    pos: Int32[np.ndarray, "n 3"]
    latent: Float32[np.ndarray, "latents channels"]
    latent_idx: Int64[np.ndarray, " latents"]
    latent_t: Float32[np.ndarray, " latents"]
    latent_loss: Float32[np.ndarray, " latents"]
    latent_eps: Float32[np.ndarray, "latents channels"]
    latent_place: Int32[np.ndarray, "latents 2"]
    semantic: Shaped[np.ndarray, "patches values"]
    semantic_idx: Int64[np.ndarray, " places"]
    # Of each picture.
    semantic_spans: list[SemanticSpan]
    source: int
    # Pictures that the step is to encode; their ids, labels and latents are not known yet.
    raw: list[RawPicture] = dataclasses.field(default_factory=list)
    lost: LostSample | None = dataclasses.field(default=None, init=False)
    # Of the sample; empty where it is of none.
    uid: str = dataclasses.field(default="", init=False)

    def __len__(self) -> int:
        return len(self.ids)

    def after(self, start: int) -> Document:
        """The positions from `start` on, where no span may be cut."""
        latent, semantic = self.latent_idx >= start, self.semantic_idx >= start
        spans, inside = _spans_within(self.semantic_spans, semantic)
        raw = [picture.after(start, int((~latent).sum())) for picture in self.raw]
        return Document(
            **{name: getattr(self, name)[start:] for name in _PLACED if name != "doc"},
            **{
                name: getattr(self, name)[latent]
                for name in ("latent", "latent_t", "latent_loss", "latent_eps", "latent_place")
            },
            latent_idx=self.latent_idx[latent] - start,
            semantic=self.semantic[inside],
            semantic_idx=self.semantic_idx[semantic] - start,
            semantic_spans=spans,
            source=self.source,
            raw=[picture for picture in raw if not picture.goes_nowhere],
        )


@dataclass
class PackedBatch:
    """Rows of one length; a row holds whole documents.

    `latent_eps` is the noise of each latent: drawn with the documents, so that a step does not
    depend on how many ranks share it.
    """

    # -1 where the position is continuous.
    ids: Int64[Tensor, "rows length"]
    # At the position that emits them; -100: none.
    labels: Int64[Tensor, "rows length"]
    weight: Float32[Tensor, "rows length"]
    # -1: padding.
    doc: Int32[Tensor, "rows length"]
    # Unique per span in a row; -1 for plain text.
    span: Int32[Tensor, "rows length"]
    attn_mode: UInt8[Tensor, "rows length"]
    expert: UInt8[Tensor, "rows length"]
    # Time, row and column.
    pos: Int32[Tensor, "rows length 3"]
    # Clean latents, and the flat index of the position of each.
    latent: Float32[Tensor, "latents channels"]
    latent_idx: Int64[Tensor, " latents"]
    # Time of a flow, 0 is clean; weight of its loss; noise.
    latent_t: Float32[Tensor, " latents"]
    latent_loss: Float32[Tensor, " latents"]
    latent_eps: Float32[Tensor, "latents channels"]
    # Row and column in its picture.
    latent_place: Int32[Tensor, "latents 2"]
    # Semantic patches: uint8 pixels that the model's tower sees, or features; the flat indices of
    # the places that they are put in; what each picture has of both.
    semantic: Shaped[Tensor, "patches values"]
    semantic_idx: Int64[Tensor, " places"]
    semantic_spans: list[SemanticSpan]
    # Per row, per document: number of its dataset.
    source: list[list[int]]
    # The same: uid of its sample.
    uids: list[list[str]] = dataclasses.field(default_factory=list)
    # Of the documents that learn nothing because they could not be read; of the whole batch alone.
    lost: list[LostSample] = dataclasses.field(default_factory=list)
    # Pictures that the step is to encode, see `picture_encoding`; they stay on the host.
    raw: list[RawPicture] = dataclasses.field(default_factory=list)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same on another device."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if field.name not in _ON_THE_HOST
        }
        return dataclasses.replace(self, **moved)

    def split(self, rows: int) -> list[PackedBatch]:
        """Batches of at most `rows` rows, for gradient accumulation."""
        return [
            self.rows(at, min(at + rows, len(self.ids))) for at in range(0, len(self.ids), rows)
        ]

    def rows(self, start: int, stop: int) -> PackedBatch:
        """Some of the rows, whose pictures are encoded."""
        assert not self.raw, "pictures must be encoded before a batch is split"
        length = self.ids.shape[1]
        first, last = start * length, stop * length
        latent = (self.latent_idx >= first) & (self.latent_idx < last)
        semantic = (self.semantic_idx >= first) & (self.semantic_idx < last)
        spans, inside = _spans_within(self.semantic_spans, semantic.cpu().numpy())
        placed = {name: getattr(self, name)[start:stop] for name in _PLACED}
        return PackedBatch(
            **placed,
            latent=self.latent[latent],
            latent_idx=self.latent_idx[latent] - first,
            latent_t=self.latent_t[latent],
            latent_loss=self.latent_loss[latent],
            latent_eps=self.latent_eps[latent],
            latent_place=self.latent_place[latent],
            semantic=self.semantic[torch.from_numpy(inside).to(self.semantic.device)],
            semantic_idx=self.semantic_idx[semantic] - first,
            semantic_spans=spans,
            source=self.source[start:stop],
            uids=self.uids[start:stop],
        )

    @property
    def tokens(self) -> int:
        """Positions that are not padding."""
        return int((self.doc >= 0).sum())

    @property
    def documents(self) -> int:
        """Documents that have positions, those of lost samples among them."""
        return int((self.doc.amax(dim=1) + 1).sum())


_ON_THE_HOST = ("semantic_spans", "source", "uids", "lost", "raw")
_PLACED = ("ids", "labels", "weight", "doc", "span", "attn_mode", "expert", "pos")


def pack(rows: Sequence[Sequence[Document]], length: int) -> PackedBatch:
    """Documents that were assigned to rows, as one batch. Every row must fit its length."""
    placed: dict[str, Array] = {
        "ids": np.full((len(rows), length), 0, np.int64),
        "labels": np.full((len(rows), length), IGNORE, np.int64),
        "weight": np.zeros((len(rows), length), np.float32),
        "doc": np.full((len(rows), length), -1, np.int32),
        "span": np.full((len(rows), length), -1, np.int32),
        "attn_mode": np.zeros((len(rows), length), np.uint8),
        "expert": np.zeros((len(rows), length), np.uint8),
        "pos": np.zeros((len(rows), length, 3), np.int32),
    }
    loose: dict[str, list[Array]] = {name: [] for name in _LOOSE}
    spans: list[SemanticSpan] = []
    raw: list[RawPicture] = []
    latents = 0
    for number, row in enumerate(rows):
        at = first_span = 0
        for count, document in enumerate(row):
            end = at + len(document)
            assert end <= length, f"{end} positions in a row of {length}"
            for name in ("ids", "labels", "weight", "attn_mode", "expert", "pos"):
                placed[name][number, at:end] = getattr(document, name)
            placed["doc"][number, at:end] = count
            spanned = document.span >= 0
            placed["span"][number, at:end] = np.where(spanned, document.span + first_span, -1)
            first_span += int(document.span.max(initial=-1)) + 1
            first = number * length + at
            for name in _LOOSE:
                value = getattr(document, name)
                loose[name].append(value + first if name.endswith("_idx") else value)
            spans += document.semantic_spans
            raw += [picture.moved(first, latents) for picture in document.raw]
            latents += len(document.latent)
            at = end
    tensors = {name: torch.from_numpy(value) for name, value in placed.items()}
    tensors |= {name: torch.from_numpy(_joined(parts)) for name, parts in loose.items()}
    return PackedBatch(
        **tensors,
        semantic_spans=spans,
        source=[[d.source for d in row] for row in rows],
        uids=[[d.uid for d in row] for row in rows],
        lost=[d.lost for row in rows for d in row if d.lost is not None],
        raw=raw,
    )


_LOOSE = (
    "latent", "latent_idx", "latent_t", "latent_loss", "latent_eps", "latent_place",
    "semantic", "semantic_idx",
)  # fmt: skip


def _joined(parts: list[Array]) -> Array:
    return np.concatenate(parts)


def best_fit(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Numbers of the documents in each row: each goes where the least room is left that takes it.

    Rows come in the order in which they were opened. A document longer than a row is in none.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for number, needed in enumerate(lengths):
        if needed > length:
            continue
        fitting = [(left, row) for row, left in enumerate(room) if left >= needed]
        if fitting:
            left, row = min(fitting)
            rows[row].append(number)
            room[row] = left - needed
        else:
            rows.append([number])
            room.append(length - needed)
    return rows
