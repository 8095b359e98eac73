"""The ledger is written in tasks of some parts each, where rows are many by workers; one that was
written of the same is left as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from gristmill.dags.engine.ledger import (
    NodeCount,
    check_counts,
    count_nodes,
    kept_rows,
    part_ledger,
)
from gristmill.dags.engine.product_losses import product_losses
from gristmill.dags.engine.records import FileRecord
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.errors import LedgerError
from gristmill.pipelines.digest_writer import DigestWriter
from gristmill.pipelines.sealed import find_sealed, read_sealed, write_sealed
from gristmill.pipelines.stage import Needs, Write
from gristmill.pipelines.storage import PARQUET, Folder
from gristmill.pipelines.verdicts import DROPPED, KEPT, MERGED

LEDGER = "ledger.json"
"""Beside the ledger: its files with their digests."""
PARTS_A_TASK = 32
# What tasks say of what they wrote, until all have.
_TOLD = "ledger-tasks"


class LedgerOperator:
    """Writes the ledger of some parts."""

    holds_worker = False
    shares = False

    def __init__(self, layout: RunLayout, parts: int, losses: Mapping[str, pa.Table]) -> None:
        self.layout, self.parts, self.losses = layout, parts, losses

    def needs(self) -> Needs:
        """A part's rows at a time."""
        return Needs(memory_gb=1.0)

    def __call__(self, task: int) -> bool:
        """Write the files, and say what was written."""
        folder = self.layout.folder.sub("ledger")
        reader = RowReader(self.layout, many=True)
        files: list[FileRecord] = []
        total = {KEPT: 0, DROPPED: 0, MERGED: 0}
        for part in range(task * PARTS_A_TASK, min((task + 1) * PARTS_A_TASK, self.parts)):
            table = part_ledger(self.layout, reader, part, self.losses)
            files.append(_write(folder, f"{part:06d}.parquet", table))
            for verdict in table["verdict"].to_pylist():
                total[verdict] += 1
        write_sealed(self.layout.folder, _told(task), {"files": files, "total": total})
        return False

    def stop(self) -> None:
        """No other thread is in here."""

    def close(self) -> None:
        """Nothing is held."""


Work = Callable[[Sequence[int], LedgerOperator], Iterable[int]]
"""Does tasks of an operator, and yields each that is done."""


def here(tasks: Sequence[int], operator: LedgerOperator) -> Iterable[int]:
    """One after the other, in this process."""
    for task in tasks:
        operator(task)
        yield task


def write_ledger(layout: RunLayout, parts: int, work: Work = here) -> dict[str, NodeCount]:
    """Write the ledger and return the counts; one that was written of the same is left as it is.
    Raises `LedgerError` on any mismatch."""
    losses = product_losses(layout)
    counts = count_nodes(layout, parts, losses)
    made_of = _made_of(layout, parts, losses)
    total = _written_before(layout.folder, made_of)
    if total is None:
        total = _write_parts(LedgerOperator(layout, parts, losses), made_of, work)
    problems = check_counts(layout.dag, counts)
    rows_in = counts[layout.dag.source].rows_in + sum(count.rows_added for count in counts.values())
    if sum(total.values()) != rows_in:
        problems.append(f"{rows_in} rows came in, the ledger has {sum(total.values())}")
    if total[KEPT] != kept_rows(layout.dag, counts):
        problems.append(
            f"the ledger keeps {total[KEPT]} rows, the last row node "
            f"{kept_rows(layout.dag, counts)}"
        )
    if problems:
        raise LedgerError("the ledger does not add up: " + "; ".join(problems))
    return counts


def _made_of(layout: RunLayout, parts: int, losses: Mapping[str, pa.Table]) -> str:
    """Digest of all that a ledger is made of."""
    digest = hashlib.sha256(str(parts).encode())
    for node in layout.dag.order():
        digest.update(f"{node}:{layout.fingerprints[node]};".encode())
        if not isinstance(layout.dag.stage(node), Write):
            digest.update(";".join(layout.digests(node, range(parts)).values()).encode())
    for node, lost in losses.items():
        digest.update(repr((node, lost.to_pylist())).encode())
    return digest.hexdigest()


def _written_before(folder: Folder, made_of: str) -> dict[str, int] | None:
    """Rows by verdict of the ledger that is there, if it was made of the same and its files are as
    long as they were written."""
    said = find_sealed(folder, LEDGER) or {}
    if said.get("made_of") != made_of:
        return None
    sizes = folder.sizes("ledger")
    if sizes != {file["name"]: file["size"] for file in said["files"]}:
        return None
    return cast(dict[str, int], said["total"])


def _write_parts(operator: LedgerOperator, made_of: str, work: Work) -> dict[str, int]:
    """Write the ledger; returns its rows by verdict."""
    root, parts = operator.layout.folder, operator.parts
    # What it says is not so while the ledger is written.
    root.remove_files([LEDGER])
    tasks = range(-(-parts // PARTS_A_TASK))
    for _ in work(tasks, operator):
        pass
    files: list[FileRecord] = []
    total = {KEPT: 0, DROPPED: 0, MERGED: 0}
    for task in tasks:
        told = read_sealed(root, _told(task))
        files += cast(list[FileRecord], told["files"])
        for verdict, rows in cast(dict[str, int], told["total"]).items():
            total[verdict] += rows
    _remove_others(root.sub("ledger"), parts)
    write_sealed(root, LEDGER, {"files": files, "total": total, "made_of": made_of})
    root.remove(_TOLD)
    return total


def _told(task: int) -> str:
    return f"{_TOLD}/{task:06d}.json"


def _write(folder: Folder, name: str, table: pa.Table) -> FileRecord:
    with folder.output(name) as file:
        writer = DigestWriter(file, xxhash.xxh3_128())
        pq.write_table(table, pa.PythonFile(writer, "w"), **PARQUET)
    return {"name": name, "size": writer.size, "xxh3": writer.digest.hexdigest()}


def _remove_others(folder: Folder, parts: int) -> None:
    """Ledger files of an earlier run with more parts, or of one that was killed."""
    expected = {f"{part:06d}.parquet" for part in range(parts)}
    for name in [*folder.names(), *folder.unfinished()]:
        if name not in expected:
            folder.remove(name)
