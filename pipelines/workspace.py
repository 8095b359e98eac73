"""What a Global or a Write stage sees of a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa
from numpy.typing import NDArray


class Workspace(Protocol):
    """What a Global or a Write stage sees of a run: rows that enter it, a place of its own."""

    @property
    def parts(self) -> int:
        """Number of parts."""

    @property
    def first_part(self) -> int:
        """Number of the first part of the list that is judged now: 0, unless it was added to a run
        that had others. What was found of the parts before it stands."""

    @property
    def before(self) -> Workspace | None:
        """What this node saw and saved when the list before came; None where this is the first."""

    @property
    def lists(self) -> Sequence[str]:
        """What the lists are called, in the order in which they came."""

    def judged(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Of a part before `first_part`, the rows that entered this node, in order: `kept` (whether
        the row, or what it went into, came to be in the product), and columns as this node wrote
        them."""

    @property
    def schema(self) -> pa.Schema:
        """All columns that enter this node."""

    def rows(self, part: int, columns: Sequence[str]) -> pa.Table:
        """The named columns of the rows of one part that enter this node, in their order."""

    def batches(
        self, columns: Sequence[str], parts: Iterable[int] | None = None
    ) -> pa.RecordBatchReader:
        """The named columns of all parts, or of some, plus `part` (int32); one part in memory."""

    def images(self, table: pa.Table) -> list[bytes]:
        """Stored bytes of the rows of `table`, which has `part`, `blob_offset` and `blob_size`."""

    def save(self, name: str, array: NDArray[Any]) -> None:
        """Store an array under a name of this node, whole or not at all."""

    def load(self, name: str) -> NDArray[Any]:
        """The array saved under `name`, memory-mapped, read-only."""

    def save_arrays(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store arrays together, in one file."""

    def load_arrays(self, name: str) -> Mapping[str, NDArray[Any]]:
        """The arrays saved together under `name`, memory-mapped, read-only."""

    def save_parts(self, name: str, parts: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        """Store the arrays of parts, in their order, in one file of which each is read alone."""

    def load_part(self, name: str, part: int) -> Mapping[str, NDArray[Any]]:
        """The arrays of one part of those saved under `name`, memory-mapped, read-only."""

    def load_parts(self, name: str) -> Iterator[Mapping[str, NDArray[Any]]]:
        """Those of all parts, in their order: the file is read once."""

    def save_table(self, name: str, table: pa.Table) -> None:
        """Store a table under a name of this node, whole or not at all."""

    def load_table(self, name: str) -> pa.Table:
        """The table saved under `name`."""

    def output(self, path: str) -> Any:
        """A binary file to write, as a context manager; it appears at `path`, below the node's
        product (a run's `shards/`), only when the block ends without an error."""

    def forgotten(self) -> pa.Table:
        """What must not be kept: `kind` (uid, image_id or sha256) and `value`."""

    def scratch(self) -> str:
        """A local folder of this process for spilling; emptied when the task ends."""
