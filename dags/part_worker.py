"""What runs stages on the rows of a part, inside a supervised child or, for a debugger, right
here."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from gristmill.dags.graph import BLOB, IMAGE, stores_images
from gristmill.dags.rows import RowReader
from gristmill.dags.run_folder import Layout
from gristmill.errors import WorkerError
from gristmill.pipelines.decode import decode_rgb
from gristmill.pipelines.stage import Image, Map, Score

_PLACE = ("part", "blob_offset", "blob_size")


@dataclass
class BlockScores:
    """Scores of one block: node -> rows scored, their columns, seconds."""

    rows: dict[str, list[int]]
    tables: dict[str, pa.Table]
    seconds: dict[str, float]


class PartWorker:
    """Holds the stages of one operator, with their models, for as long as its process lives."""

    def __init__(self, layout: Layout, nodes: Sequence[str]) -> None:
        self.layout, self.nodes = layout, tuple(nodes)
        self.reader = RowReader(layout)
        self._part: tuple[int, pa.Table] | None = None
        for node in nodes:
            layout.dag.stage(node).prepare()

    def size(self, part: int) -> int:
        """Number of rows that enter."""
        return len(self._entering(part))

    def uids(self, part: int) -> list[str]:
        """uid of each row that enters, in order."""
        found: list[str] = self._entering(part)["uid"].to_pylist()
        return found

    def row(self, part: int, row: int) -> pa.Table:
        """One row that enters, as a table."""
        return self._entering(part).slice(row, 1)

    def pixel_counts(self, part: int) -> list[int]:
        """Pixels of each row's stored picture; 0 where it is not known."""
        table = self._entering(part)
        if "width" not in table.column_names or "height" not in table.column_names:
            return [0] * len(table)
        area = pc.multiply(table["width"].cast(pa.int64()), table["height"].cast(pa.int64()))
        counts: list[int] = pc.fill_null(area, 0).to_pylist()
        return counts

    # -- Map ------------------------------------------------------------------------------------

    def map_rows(self, part: int, rows: Sequence[int] | None, path: str) -> Iterator[int]:
        """Map some rows of a part into `path`.parquet and `path`.blobs; yields rows done.

        Rows come out in the order in which their origins went in, children in the order yielded.
        """
        stage = self.layout.dag.stage(self.nodes[0])
        assert isinstance(stage, Map)
        table = self._entering(part)
        if rows is not None:
            table = table.take(pa.array(rows, pa.int64()))
        origin = {uid: i for i, uid in enumerate(table["uid"].to_pylist())}
        with_images = stores_images(stage)
        done: list[pa.Table] = []
        with open(f"{path}.blobs", "wb") as blobs:
            for out in stage.map(table):
                done.append(_store_images(out, blobs) if with_images else out)
                yield len(out)
        mapped = pa.concat_tables(done) if done else _nothing_mapped(table, stage)
        pq.write_table(_in_order(mapped, origin, self.nodes[0]), f"{path}.parquet")

    # -- Score ----------------------------------------------------------------------------------

    def score_block(
        self, part: int, rows: Sequence[int], without: Mapping[str, Collection[int]]
    ) -> BlockScores:
        """Score some rows with every node, decoding their pictures once.

        `without`: node -> rows that it must not see, because they are poison to it.
        """
        result = BlockScores({}, {}, dict.fromkeys(self.nodes, 0.0))
        table = self._entering(part).take(pa.array(rows, pa.int64()))
        looking = [node for node in self.nodes if self._score_stage(node).pixels]
        images: list[Image | None] = [None] * len(rows)
        if looking:
            start = time.perf_counter()
            poison = set.intersection(*[set(without.get(node, ())) for node in looking])
            seen = [i for i, row in enumerate(rows) if row not in poison]
            stored = self.reader.images(self.nodes[0], table.take(pa.array(seen, pa.int64())))
            for i, data in zip(seen, stored, strict=True):
                images[i] = decode_rgb(data)
            for node in looking:
                result.seconds[node] += (time.perf_counter() - start) / len(looking)
        for node in self.nodes:
            start = time.perf_counter()
            stage = self._score_stage(node)
            bad = without.get(node, ())
            mine = [i for i, row in enumerate(rows) if row not in bad]
            pictures = [image for i in mine if (image := images[i]) is not None]
            scores = stage.score(
                table.take(pa.array(mine, pa.int64())), pictures if stage.pixels else None
            )
            _check_scores(node, stage, scores, len(mine))
            result.rows[node] = [rows[i] for i in mine]
            result.tables[node] = scores
            result.seconds[node] += time.perf_counter() - start
        return result

    def score_each(
        self, part: int, pairs: Sequence[tuple[int, str]]
    ) -> Iterator[tuple[int, int, str]]:
        """Score (row, node) pairs one by one, journaling: (index, 0, "") before each, and
        (index, 1, message) after one that raises."""
        for index, (row, node) in enumerate(pairs):
            yield index, 0, ""
            others = {other: (row,) for other in self.nodes if other != node}
            try:
                self.score_block(part, [row], others)
            except Exception as error:
                yield index, 1, f"{type(error).__name__}: {error}"

    def _score_stage(self, node: str) -> Score:
        stage = self.layout.dag.stage(node)
        assert isinstance(stage, Score)
        return stage

    def _entering(self, part: int) -> pa.Table:
        """The rows that enter, with all columns any of the nodes reads; kept for the next call."""
        if self._part is None or self._part[0] != part:
            self._part = (part, self._read(part))
        return self._part[1]

    def _read(self, part: int) -> pa.Table:
        dag, node = self.layout.dag, self.nodes[0]
        available = dag.columns(node)
        if isinstance(dag.stage(node), Map):
            return self.reader.entering(node, part, available.names)
        columns = {"uid"}
        for name in self.nodes:
            stage = dag.stage(name)
            columns |= set(stage.bind(available))
            if isinstance(stage, Score) and stage.pixels:
                columns |= {"blob_offset", "blob_size", "width", "height"}
        wanted = [name for name in available.names if name in columns]
        table = self.reader.entering(node, part, wanted)
        return table.append_column("part", pa.array(np.full(len(table), part, np.int32)))


def _store_images(table: pa.Table, blobs: Any) -> pa.Table:
    """Move the pictures of a table into the blob file, leaving the place where they lie."""
    offsets: list[int | None] = []
    sizes: list[int | None] = []
    for value in table[IMAGE]:
        data = value.as_py()
        if data is None:
            offsets.append(None)
            sizes.append(None)
            continue
        offsets.append(blobs.tell())
        sizes.append(len(data))
        blobs.write(data)
    names = [name for name in table.column_names if name not in (IMAGE, *BLOB.names)]
    table = table.select(names)
    for field, values in zip(BLOB, (offsets, sizes), strict=True):
        table = table.append_column(field, pa.array(values, field.type))
    return table


def _in_order(table: pa.Table, origin: dict[str, int], node: str) -> pa.Table:
    """Rows in the order of their origins. Every origin must have come out: nothing disappears."""
    uids, parents = table["uid"].to_pylist(), table["parent_uid"].to_pylist()
    positions = [
        origin[uid] if uid in origin else origin.get(parent or "", -1)
        for uid, parent in zip(uids, parents, strict=True)
    ]
    if -1 in positions:
        stray = uids[positions.index(-1)]
        raise WorkerError(
            f"node {node!r} yielded row {stray}, which comes from no row it was given"
        )
    missing = len(origin) - len(set(positions))
    if missing:
        raise WorkerError(f"node {node!r} lost {missing} of {len(origin)} rows; it must yield each")
    return table.take(pa.array(np.argsort(positions, kind="stable")))


def _nothing_mapped(table: pa.Table, stage: Map) -> pa.Table:
    """The mapped form of a part without rows."""
    if len(table):
        return table
    for field in [*stage.writes(), *(BLOB if stores_images(stage) else ())]:
        if field.name not in (IMAGE, *table.column_names):
            table = table.append_column(field, pa.array([], field.type))
    return table


def _check_scores(node: str, stage: Score, scores: pa.Table, rows: int) -> None:
    wanted = stage.writes()
    if len(scores) != rows or scores.schema.names != wanted.names:
        raise WorkerError(
            f"node {node!r} returned {len(scores)} rows with columns {scores.schema.names}; "
            f"it must return {rows} rows with {wanted.names}"
        )
