"""The columns of a document while it is written."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from gristmill.model.documents.batch import CAUSAL, IGNORE, UNDERSTAND, Array, SemanticSpan
from gristmill.model.documents.picture_encoding import RawPicture


@dataclass
class Columns:
    """A document in the making: plain lists, which are quicker to lengthen by a few positions."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    span: list[int] = field(default_factory=list)
    attn_mode: list[int] = field(default_factory=list)
    expert: list[int] = field(default_factory=list)
    # The three axes of `pos`.
    times: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    # What comes with some positions only.
    loose: dict[str, list[Array]] = field(default_factory=dict)
    time: int = 0
    # Spans and latents so far.
    spans: int = 0
    latents: int = 0
    # Whether the last position is text that was learnt, so that it may emit `<image>`.
    after_text: bool = False
    semantic_spans: list[SemanticSpan] = field(default_factory=list)
    # Pictures that the step encodes, by the identity of their pixels: a picture may have copies.
    raw: dict[int, RawPicture] = field(default_factory=dict)

    def add(
        self,
        ids: Sequence[int],
        labels: Sequence[int],
        weight: Sequence[float],
        *,
        span: int,
        attn_mode: int,
        expert: int,
    ) -> None:
        """Positions, all but where they stand."""
        count = len(ids)
        self.ids += ids
        self.labels += labels
        self.weight += weight
        self.span += [span] * count
        self.attn_mode += [attn_mode] * count
        self.expert += [expert] * count

    def plain(
        self, ids: Sequence[int], labels: Sequence[int] = (), weight: Sequence[float] = ()
    ) -> None:
        """Causal positions of text, each a step of time; without `labels` they learn nothing."""
        count = len(ids)
        self.add(
            ids, labels or [IGNORE] * count, weight or [0.0] * count,
            span=-1, attn_mode=CAUSAL, expert=UNDERSTAND,
        )  # fmt: skip
        self.stand_in_line(count)
        self.after_text = False

    def spanned(
        self,
        ids: NDArray[np.int64],
        attn_mode: int,
        expert: int,
        labels: Sequence[int] = (),
        weight: Sequence[float] = (),
    ) -> None:
        """Positions of one span, all but their `pos`; without `labels` they learn nothing."""
        count = len(ids)
        self.add(
            ids.tolist(), labels or [IGNORE] * count, weight or [0.0] * count,
            span=self.spans, attn_mode=attn_mode, expert=expert,
        )  # fmt: skip
        self.spans += 1

    def stand_in_line(self, count: int) -> None:
        """Positions of text: each a step on all three axes, from the present time on."""
        self.stand_ahead(count)
        self.time += count

    def stand_ahead(self, count: int) -> None:
        """Positions as those of text, of a picture that is in line with it; time stays, as other
        copies of the picture begin where this one does."""
        steps = range(self.time, self.time + count)
        self.times += steps
        self.rows += steps
        self.columns += steps

    def stand_in_grid(
        self,
        grid: tuple[int, int],
        *,
        frame: tuple[int, int] | None = None,
        repeat: int = 1,
        places: Sequence[int] | None = None,
    ) -> None:
        """Positions of a picture, which share one time: (time, time + row, time + column)
        (M-RoPE, Wang et al. 2024). `repeat` positions a place, or those `places` alone; rows and
        columns are those of `frame`, if that is another grid."""
        rows, columns = grid_places(grid, frame or grid, repeat)
        if places is not None:
            rows, columns = [rows[at] for at in places], [columns[at] for at in places]
        self.times += [self.time] * len(rows)
        self.rows += [self.time + row for row in rows]
        self.columns += [self.time + column for column in columns]

    def emit(self, label: int, weight: float) -> None:
        """The last position emits what comes."""
        self.labels[-1], self.weight[-1] = label, weight

    def raw_picture(self, pixels: NDArray[np.uint8]) -> RawPicture:
        """The entry of a picture that the step encodes."""
        return self.raw.setdefault(id(pixels), RawPicture(pixels))

    def add_loose(self, name: str, values: ArrayLike, dtype: DTypeLike) -> None:
        """Values that not every position has."""
        self.loose.setdefault(name, []).append(np.asarray(values, dtype))

    def add_semantic(
        self, patches: NDArray[np.generic], index: NDArray[np.int64], places: tuple[int, int]
    ) -> None:
        """Semantic patches [h, w, values] of one picture at the positions `index`, which are
        `places` in rows and columns."""
        self.add_loose("semantic", patches.reshape(-1, patches.shape[-1]), patches.dtype)
        self.add_loose("semantic_idx", index, np.int64)
        self.semantic_spans.append(SemanticSpan((patches.shape[0], patches.shape[1]), places))

    def arrays(self) -> dict[str, Array]:
        """The columns as a `Document` has them."""
        pos = np.array([self.times, self.rows, self.columns], np.int32).T
        return {
            "ids": np.array(self.ids, np.int64),
            "labels": np.array(self.labels, np.int64),
            "weight": np.array(self.weight, np.float32),
            "span": np.array(self.span, np.int32),
            "attn_mode": np.array(self.attn_mode, np.uint8),
            "expert": np.array(self.expert, np.uint8),
            "pos": pos,
            **{name: np.concatenate(parts) for name, parts in self.loose.items()},
        }


@functools.lru_cache(maxsize=1024)
def grid_places(
    grid: tuple[int, int], frame: tuple[int, int], repeat: int
) -> tuple[list[int], list[int]]:
    """Row and column in `frame` of each position of a grid, `repeat` positions a place."""
    rows, columns = grid
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return (
        [row * frame[0] // rows for row, _ in places for _ in range(repeat)],
        [column * frame[1] // columns for _, column in places for _ in range(repeat)],
    )


def bind_queries(places: int, queries: int) -> tuple[NDArray[np.int64], list[int]]:
    """Number of the query that each place is bound to, in order and as evenly as can be; and the
    first place of each query, where it stands."""
    bound = np.arange(places) * queries // places
    return bound, np.searchsorted(bound, np.arange(queries)).tolist()
