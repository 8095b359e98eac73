"""How many rows of a part are done, said on the way by operators wherever they run: nothing is
written, so that no object store is asked for the sake of a bar."""

from __future__ import annotations

from typing import Protocol


class RowsDone(Protocol):
    """Hears of rows."""

    def __call__(self, node: str, part: int, done: int, of: int, /) -> None:
        """`done` of the `of` rows of a part have gone through a node."""
