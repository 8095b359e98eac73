"""A run folder of toy stages with a list added to it, brought as far as a test wants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from toy_run import advance, lay, toy_dag
from toy_stages import ToyRows

from gristmill.dags.engine.additions import Addition
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.graph import Dag
from gristmill.pipelines.schema import ROW, make_image_id, make_uid
from gristmill.pipelines.stage import ManifestEntry, Read


@dataclass(frozen=True, kw_only=True)
class Files(Read):
    """Files below a folder: `NAME=CAPTION`, or a name alone."""

    path: str = "/a"
    names: tuple[str, ...] = ()

    def manifest(self) -> list[ManifestEntry]:
        return [{"name": name, "size": None, "modified": ""} for name in self.names]

    def chunks(self) -> Sequence[int]:
        return [0]

    def read(self, chunk: int) -> Iterator[pa.Table]:
        rows = []
        for number, text in enumerate(self.names):
            name, _, caption = text.partition("=")
            rows.append(
                {
                    "uid": make_uid("path", name, caption or None),
                    "image_id": make_image_id("path", name),
                    "row": number,
                    "source": self.path,
                    "pointer": f"file:{self.path}/{name}",
                    "caption": caption or None,
                    "status": "pending",
                    "meta": "{}",
                }
            )
        yield pa.Table.from_pylist(rows, ROW)


def added(layout: RunLayout, source: Read, limit: int = 0) -> RunLayout:
    """The run with one list more."""
    one = Addition(source, "0" * 64, limit)
    return dataclasses.replace(layout, additions=(*layout.additions, one))


def two_lists(folder: Path, dag: Dag | None = None) -> RunLayout:
    """Twenty toy rows, done, and twelve more of which the first two are there already."""
    layout = lay(folder, dag or toy_dag(part_rows=8))
    advance(layout)
    return added(layout, Later(rows=12, chunk=12))


@dataclass(frozen=True, kw_only=True)
class Later(ToyRows):
    """Toy rows from number 18 on."""

    def read(self, chunk: tuple[int, int]) -> Iterator[pa.Table]:
        yield from ToyRows(rows=40, chunk=20).read((18, 18 + self.rows))


def rows_of(layout: RunLayout, first: int = 0) -> list[dict[str, object]]:
    """The rows of the source's parts from `first` on."""
    store = layout.store(layout.dag.source)
    store.settle()
    parts = [part for part in store.parts() if part >= first]
    return [row for part in parts for row in store.table(store.need(part)).to_pylist()]
