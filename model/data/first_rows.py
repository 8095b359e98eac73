"""What is said of the first rows of a training: how full they are, and what is not in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from gristmill.model.data.planner import Planner, RowPlan
from gristmill.model.data.stream import LaneState, StreamState
from gristmill.model.documents.batch import best_fit

# Rows that are emptier are worth a word.
_WELL_FILLED = 0.8
# Of samples that are longer than a row; with fewer that is chance.
_WORTH_A_WORD = 0.01
# Lanes that are looked at.
_LANES = 8


def first_rows(planner: Planner) -> str:
    """How full the rows of the first blocks are, what row length would fill them better if they are
    not, and how many samples are not learnt, or in part."""
    config, writer = planner.config, planner.writer
    plans: list[RowPlan] = []
    after: list[LaneState] = []
    for lane in planner.start().lanes[:_LANES]:
        rows, state = planner.block(lane)
        plans += rows
        after.append(state)
    read = sum(sum(state.cursors) for state in after)
    lengths = [writer.length(plan.segments, plan.grids) for row in plans for plan in row]
    share = _filled(lengths, config.row_length)
    said = f"rows filled to {share:.0%}"
    if share < _WELL_FILLED and lengths:
        # One, two, three of the longest to a row.
        tries = [8 * math.ceil(count * max(lengths) / 8) for count in (1, 2, 3)]
        better = next((n for n in tries if _filled(lengths, n) >= _WELL_FILLED), None)
        said += f": documents have {min(lengths)} to {max(lengths)} positions"
        if better is not None:
            said += f", --row-length {better} would fill rows to {_filled(lengths, better):.0%}"
    faults = Counter(plan.left_out for row in plans for plan in row if plan.left_out)
    counts = {
        "longer than a row, learnt in part": sum(state.windowed for state in after),
        "longer than a row, left out": sum(state.too_long for state in after),
        "with nothing for the tasks": sum(state.unusable for state in after),
        **dict(faults.most_common(3)),
    }
    told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    return said + (f"; of the first {read:,} samples: {told}" if told else "")


class LongDocuments:
    """Whether more of a training's documents are longer than a row than of the first ones."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner
        self._share = -1.0

    def told(self, state: StreamState) -> str:
        """What is to be said at a state of all lanes: something where the share of documents that
        are longer than a row, left out or learnt in part, became twice what was known, and more
        than a hundredth."""
        share = _long(state)
        if share < _WORTH_A_WORD:
            return ""
        if self._share < 0:
            lanes = self._planner.start().lanes[:_LANES]
            self._share = _long(StreamState(tuple(self._planner.block(lane)[1] for lane in lanes)))
        if share < 2 * self._share:
            return ""
        before, self._share = self._share, share
        return (
            f"{share:.1%} of the samples are longer than a row (left out {state.too_long:,}, "
            f"learnt in part {state.windowed:,}, of {state.read:,}); it was {before:.1%}: look at "
            "later shards, or train with a larger --row-length"
        )


def _long(state: StreamState) -> float:
    return (state.too_long + state.windowed) / max(1, state.read)


def _filled(lengths: Sequence[int], row_length: int) -> float:
    """Share of the positions of rows that documents of these lengths fill."""
    rows = best_fit(lengths, row_length)
    return sum(lengths[i] for row in rows for i in row) / max(len(rows) * row_length, 1)
