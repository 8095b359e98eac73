"""A Workspace over tables in memory, for trying Global and Write stages without a run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from gristmill.pipelines.array_files import pack_arrays, unpack_arrays
from gristmill.pipelines.stage import Global, Write
from gristmill.pipelines.storage import Folder


class MemoryWorkspace:
    """Parts are tables; images are bytes by (part, blob_offset)."""

    def __init__(self, parts: Sequence[pa.Table], folder: Path, images: Any = None) -> None:
        self._parts = list(parts)
        self.folder = Folder(str(folder / "node"))
        self.product = Folder(str(folder / "product"))
        self._images = images
        self._scratch = str(folder / "scratch")

    @property
    def parts(self) -> int:
        return len(self._parts)

    @property
    def first_part(self) -> int:
        return 0

    @property
    def before(self) -> None:
        return None

    @property
    def lists(self) -> list[str]:
        return ["source"]

    def judged(self, part: int, columns: Sequence[str]) -> pa.Table:
        raise AssertionError("there is one list")

    @property
    def schema(self) -> pa.Schema:
        return self._parts[0].schema

    def rows(self, part: int, columns: Sequence[str]) -> pa.Table:
        return self._parts[part].select(list(columns))

    def batches(
        self, columns: Sequence[str], parts: Iterable[int] | None = None
    ) -> pa.RecordBatchReader:
        names = [name for name in columns if name != "part"]
        fields = [*[self.schema.field(name) for name in names], pa.field("part", pa.int32())]

        def read() -> Iterator[pa.RecordBatch]:
            for part in range(self.parts) if parts is None else parts:
                table = self.rows(part, names)
                number = pa.array(np.full(len(table), part, np.int32))
                yield from table.append_column("part", number).combine_chunks().to_batches()

        return pa.RecordBatchReader.from_batches(pa.schema(fields), read())

    def images(self, table: pa.Table) -> list[bytes]:
        places = zip(table["part"].to_pylist(), table["blob_offset"].to_pylist(), strict=True)
        return [self._images[place] for place in places]

    def save(self, name: str, array: Any) -> None:
        with self.folder.output(f"{name}.npy") as file:
            np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)

    def load(self, name: str) -> Any:
        return np.load(self.folder.join(f"{name}.npy"), mmap_mode="r")

    def save_arrays(self, name: str, arrays: Any) -> None:
        self.folder.write_bytes(f"{name}.safetensors", pack_arrays(arrays))

    def load_arrays(self, name: str) -> Any:
        return unpack_arrays(self.folder.read_bytes(f"{name}.safetensors"))

    def save_parts(self, name: str, parts: Any) -> None:
        for part, arrays in enumerate(parts):
            self.save_arrays(f"{name}-{part}", arrays)

    def load_part(self, name: str, part: int) -> Any:
        return self.load_arrays(f"{name}-{part}")

    def load_parts(self, name: str) -> Iterator[Any]:
        part = 0
        while self.folder.exists(f"{name}-{part}.safetensors"):
            yield self.load_part(name, part)
            part += 1

    def save_table(self, name: str, table: pa.Table) -> None:
        self.folder.write_table(f"{name}.parquet", table)

    def load_table(self, name: str) -> pa.Table:
        return self.folder.read_table(f"{name}.parquet")

    def output(self, path: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        return self.product.output(path)

    def forgotten(self) -> pa.Table:
        return pa.table({"kind": pa.array([], pa.string()), "value": pa.array([], pa.string())})

    def scratch(self) -> str:
        os.makedirs(self._scratch, exist_ok=True)
        return self._scratch


def run_phases(stage: Global | Write, workspace: MemoryWorkspace) -> None:
    """All phases, tasks last to first: their order must not matter."""
    for phase in stage.phases():
        for task in reversed(range(phase.count(workspace))):
            phase.work(workspace, task)


def run_global(stage: Global, workspace: MemoryWorkspace) -> pa.Table:
    """All phases, then the columns of all parts."""
    run_phases(stage, workspace)
    return pa.concat_tables(stage.columns(workspace, part) for part in range(workspace.parts))
