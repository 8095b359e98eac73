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

    `things` says which of the `count` things each row of all parts is of, -1 for none, `starts`
    where in it a part begins. Of a first list, all are new.
    """

    def __init__(
        self,
        workspace: Workspace,
        starts: NDArray[np.int64],
        things: NDArray[np.int64],
        count: int,
    ) -> None:
        self._workspace, self._starts, self._things = workspace, starts, things
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
            gone = things[(things >= 0) & ~kept]
            # A thing is kept if one of its rows is.
            self.rank[gone[self.rank[gone] != KEPT_BEFORE]] = NOT_KEPT
            self.rank[things[(things >= 0) & kept]] = KEPT_BEFORE

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
