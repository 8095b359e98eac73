"""What a Global or Write stage sees of a run: the rows that enter it, a place of its own, and what
it found of the lists before the last."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from gristmill.dags.engine.additions import list_title
from gristmill.dags.engine.cut_record import first_part
from gristmill.dags.engine.product_losses import product_losses
from gristmill.dags.engine.records import FileRecord
from gristmill.dags.engine.rows import RowReader, make_scratch
from gristmill.dags.engine.run_folder import ROWS, RunLayout
from gristmill.dags.engine.saved import (
    index_name,
    load_saved_array,
    load_saved_arrays,
    load_saved_part,
    load_saved_parts,
    load_saved_table,
    sealed_output,
    write_array,
    write_parts,
    write_table,
)
from gristmill.dags.engine.standing import kept_uids
from gristmill.dags.engine.tombstones import read_tombstones
from gristmill.pipelines.array_files import pack_arrays
from gristmill.pipelines.digest_writer import DigestWriter
from gristmill.pipelines.storage import Folder


class NodeWorkspace:
    """The `Workspace` of a Global or Write node: its rows, its saved arrays, its product."""

    def __init__(self, layout: RunLayout, node: str, parts: int, scratch: str) -> None:
        self.layout, self.node, self._parts, self._scratch = layout, node, parts, scratch
        self.rows_above = RowReader(layout, many=True)
        self.folder = layout.folder.sub(layout.last_folder(node))
        self.first_part = first_part(layout)
        self._losses: Mapping[str, pa.Table] | None = None
        # The table that was loaded last.
        self._table: tuple[str, pa.Table] = ("", None)
        # What this task wrote: below the node's folder, and below its product's.
        self.wrote: dict[str, list[FileRecord]] = {"saved": [], "product": []}

    @property
    def parts(self) -> int:
        """Number of parts."""
        return self._parts

    @functools.cached_property
    def before(self) -> NodeWorkspace | None:
        """What this node saw and saved when the list before the last came; None for the first."""
        if not self.layout.additions:
            return None
        return NodeWorkspace(self.layout.before, self.node, self.first_part, self._scratch)

    @property
    def lists(self) -> list[str]:
        """What the lists are called, in the order in which they came."""
        return [list_title(one.reading) for one in self.layout.lists]

    def judged(self, part: int, columns: Sequence[str]) -> pa.Table:
        """Rows of a part of a list before the last that entered this node, in order: `kept`, and
        the named columns that it wrote of them."""
        if self._losses is None:
            self._losses = product_losses(self.layout.before)
        uids = self.rows(part, ["uid"])["uid"]
        kept = kept_uids(self.layout.dag, self.rows_above, part, self._losses)
        own = self.rows_above.table(self.node, part, ROWS, ["uid", *columns])
        own = own.take(pc.index_in(uids, own["uid"]))
        flags = pc.is_in(uids, pa.array(sorted(kept), pa.string()))
        return pa.table({"kept": flags, **{name: own[name] for name in columns}})

    @property
    def schema(self) -> pa.Schema:
        """All columns that enter this node."""
        return self.layout.dag.columns(self.node)

    def rows(self, part: int, columns: Sequence[str]) -> pa.Table:
        """The named columns of the rows of one part, in order."""
        return self.rows_above.entering(self.node, part, columns)

    def batches(
        self, columns: Sequence[str], parts: Iterable[int] | None = None
    ) -> pa.RecordBatchReader:
        """The named columns of all parts, or of some, plus `part`, one at a time in memory."""
        fields = [self.schema.field(name) for name in columns if name != "part"]
        schema = pa.schema([*fields, pa.field("part", pa.int32())])

        def read() -> Iterator[pa.RecordBatch]:
            for part in range(self.parts) if parts is None else parts:
                table = self.rows(part, [field.name for field in fields])
                number = pa.array(np.full(len(table), part, np.int32))
                table = table.append_column("part", number).cast(schema)
                yield from table.combine_chunks().to_batches(max_chunksize=10_000)

        return pa.RecordBatchReader.from_batches(schema, read())

    def images(self, table: pa.Table) -> list[bytes]:
        """Stored bytes of the rows of `table`."""
        return self.rows_above.images(self.node, table)

    def save(self, name: str, array: NDArray[np.generic]) -> None:
        """Store an array whole."""
        with self._saving(f"saved/{name}.npy") as file:
            write_array(file, array)

    def load(self, name: str) -> NDArray[np.generic]:
        """A saved array, memory-mapped."""
        return load_saved_array(self.folder, f"saved/{name}.npy")

    def save_arrays(self, name: str, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Store arrays in one file."""
        with self._saving(f"saved/{name}.safetensors") as file:
            file.write(pack_arrays(arrays))

    def load_arrays(self, name: str) -> Mapping[str, NDArray[np.generic]]:
        """Arrays that were saved together, memory-mapped."""
        return load_saved_arrays(self.folder, f"saved/{name}.safetensors")

    def save_parts(self, name: str, parts: Iterable[Mapping[str, NDArray[np.generic]]]) -> None:
        """Store the arrays of each part in one file."""
        place = f"saved/{name}.parts"
        with self._saving(place) as file:
            index = write_parts(file, parts)
        with self._saving(index_name(place)) as file:
            write_array(file, index)

    def load_part(self, name: str, part: int) -> Mapping[str, NDArray[np.generic]]:
        """The arrays of one part."""
        return load_saved_part(self.folder, f"saved/{name}.parts", part)

    def load_parts(self, name: str) -> Iterator[Mapping[str, NDArray[np.generic]]]:
        """Those of all parts, in their order."""
        return load_saved_parts(self.folder, f"saved/{name}.parts")

    def save_table(self, name: str, table: pa.Table) -> None:
        """Store a table whole."""
        self._table = ("", None)
        with self._saving(f"saved/{name}.parquet") as file:
            write_table(file, table)

    def load_table(self, name: str) -> pa.Table:
        """A saved table; the last one is kept, for the parts that come next."""
        if self._table[0] != name:
            self._table = (name, load_saved_table(self.folder, f"saved/{name}.parquet"))
        return self._table[1]

    @contextlib.contextmanager
    def _saving(self, name: str) -> Iterator[DigestWriter]:
        with sealed_output(self.folder, name) as (file, record):
            yield file
        self.wrote["saved"].append(record)

    @property
    def product(self) -> Folder:
        """Where a Write node's files go: the run's folder of the node's name."""
        return self.layout.folder.sub(self.node)

    @contextlib.contextmanager
    def output(self, path: str) -> Iterator[DigestWriter]:
        """A file of the product that appears whole."""
        with self.product.output(path) as file:
            writer = DigestWriter(file, xxhash.xxh3_128())
            yield writer
        digest = writer.digest.hexdigest()
        self.wrote["product"].append({"name": path, "size": writer.size, "xxh3": digest})

    def forgotten(self) -> pa.Table:
        """The run's tombstones."""
        return read_tombstones(self.layout.folder)

    def scratch(self) -> str:
        """A local folder for spilling, removed when the task ends."""
        return self._scratch


@contextlib.contextmanager
def node_workspace(layout: RunLayout, node: str, parts: int) -> Iterator[NodeWorkspace]:
    """A workspace for one task."""
    scratch = make_scratch(layout)
    try:
        yield NodeWorkspace(layout, node, parts, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
