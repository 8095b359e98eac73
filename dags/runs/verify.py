"""Checks a finished run: digests of what is committed, the ledger, the shards."""

from __future__ import annotations

import xxhash

from gristmill.dags.engine.ledger import check_counts, count_nodes, kept_rows, part_ledger
from gristmill.dags.engine.product_losses import product_losses
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import PartStore, RunLayout
from gristmill.dags.runs.plan import finished_parts, open_run, where_it_ran
from gristmill.errors import GristmillError
from gristmill.pipelines.shards.verify import verify_shards
from gristmill.pipelines.stage import Write

_CHUNK = 4 * 2**20


def verify_run(out: str) -> list[str]:
    """Everything that is wrong with a run, in words; empty if all is well."""
    layout = open_run(out)
    parts = finished_parts(layout)
    with where_it_ran(layout):
        return _problems(layout, parts)


def _problems(layout: RunLayout, parts: int) -> list[str]:
    problems: list[str] = []
    for node in layout.dag.order():
        if not isinstance(layout.dag.stage(node), Write):
            problems += _check_node(layout.store(node), node, parts)
    if problems:
        return problems
    problems += _check_ledger(layout, parts)
    for node in layout.dag.order():
        if isinstance(layout.dag.stage(node), Write):
            problems += verify_shards(layout.folder.join_url(node))
    return problems


def _check_node(store: PartStore, node: str, parts: int) -> list[str]:
    problems = []
    for part in range(parts):
        record = store.record(part)
        if record is None:
            problems.append(f"node {node!r}: part {part} is not committed")
            continue
        for kind, file in record.files.items():
            try:
                digest, size = _digest(store, str(file["name"]))
            except OSError as error:
                problems.append(f"node {node!r}: {kind} of part {part}: {error}")
                continue
            if size != file["size"] or digest != file["xxh3"]:
                problems.append(f"node {node!r}: {kind} of part {part} has another digest")
    return problems


def _digest(store: PartStore, name: str) -> tuple[str, int]:
    digest, size = xxhash.xxh3_128(), 0
    with store.folder.open(name) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _check_ledger(layout: RunLayout, parts: int) -> list[str]:
    """The counts add up, and the ledger on disk is what the committed parts say."""
    counts, losses = count_nodes(layout, parts), product_losses(layout)
    problems = check_counts(layout.dag, counts)
    folder = layout.folder.sub("ledger")
    reader = RowReader(layout)
    rows = kept = 0
    for part in range(parts):
        try:
            table = folder.read_table(f"{part:06d}.parquet")
        except (OSError, ValueError) as error:
            problems.append(f"ledger of part {part}: {error}")
            continue
        rows += len(table)
        kept += table["verdict"].to_pylist().count("kept")
        try:
            if not table.equals(part_ledger(layout, reader, part, losses)):
                problems.append(f"ledger of part {part} is not what the nodes decided")
        except GristmillError as error:
            problems.append(str(error))
    rows_in = counts[layout.dag.source].rows_in + sum(count.rows_added for count in counts.values())
    if rows != rows_in:
        problems.append(f"{rows_in} rows came in, the ledger has {rows}")
    if kept != kept_rows(layout.dag, counts):
        problems.append(f"the ledger keeps {kept} rows, the nodes {kept_rows(layout.dag, counts)}")
    return problems
