"""What is said of the first rows of a training: how full they are, and what is not in them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from gristmill.model.data.planner import Planner
from gristmill.model.documents.batch import best_fit

# Rows that are emptier are worth a word.
_WELL_FILLED = 0.8


def first_rows(planner: Planner) -> str:
    """How full the rows of the first block are, what row length would fill them better if they are
    not, and how many samples are not learnt, or in part."""
    config, writer = planner.config, planner.writer
    plans, after = planner.block(planner.start())
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
        "longer than a row, learnt in part": after.windowed,
        "longer than a row, left out": after.too_long,
        "with nothing for the tasks": after.unusable,
        **dict(faults.most_common(3)),
    }
    told = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
    return said + (f"; of the first {config.block} samples: {told}" if told else "")


def _filled(lengths: Sequence[int], row_length: int) -> float:
    """Share of the positions of rows that documents of these lengths fill."""
    rows = best_fit(lengths, row_length)
    return sum(lengths[i] for row in rows for i in row) / max(len(rows) * row_length, 1)
