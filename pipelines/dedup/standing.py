"""What stands when a list is added: things that were kept before win, whatever comes after them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gristmill.pipelines.dedup.image_ids import digests
from gristmill.pipelines.stage import Workspace

# Ranks, the lowest first: kept before; of the list that is judged now; seen before and not kept,
# which nothing is measured by.
KEPT_BEFORE, NEW, NOT_KEPT = 0, 1, 2


class Standing:
    """Which of some things (images, clips, captions) were kept before the list that is judged now.

    `row_starts` and `row_thing` name saved arrays: which of the `count` things each row of all
    parts is of, -1 for none, and where in it a part begins. Of a first list, all are new.
    """

    def __init__(self, workspace: Workspace, row_starts: str, row_thing: str, count: int) -> None:
        self._workspace = workspace
        self._starts = np.asarray(workspace.load(row_starts))
        self._things = np.asarray(workspace.load(row_thing))
        # [count] of the ranks above.
        self.rank: NDArray[np.int8] = np.full(count, NEW, np.int8)
        if workspace.first_part:
            self._read_kept()

    def _rows(self, part: int) -> NDArray[np.int64]:
        return np.asarray(self._things[self._starts[part] : self._starts[part + 1]])

    def _read_kept(self) -> None:
        for part in range(self._workspace.first_part):
            things = self._rows(part)
            kept = self._workspace.judged(part, [])["kept"].to_numpy()
            there = things >= 0
            # A thing is kept if one of its rows is.
            self.rank[things[there & ~kept]] = np.where(
                self.rank[things[there & ~kept]] == KEPT_BEFORE, KEPT_BEFORE, NOT_KEPT
            )
            self.rank[things[there & kept]] = KEPT_BEFORE

    def digests(self, column: str, own: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """128-bit digests [count, 2] that name the group of each thing: `own`, but of things that
        were seen before what this node wrote of them in `column`."""
        found = own
        if self._workspace.first_part:
            found = np.array(own)
            for part in range(self._workspace.first_part):
                things, said = self._rows(part), self._workspace.judged(part, [column])[column]
                there = (things >= 0) & said.is_valid().to_numpy()
                found[things[there]] = digests(said)[there]
        return found
