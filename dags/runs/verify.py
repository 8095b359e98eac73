"""Checks a finished run: digests of all that is committed, the ledger, the shards."""

from __future__ import annotations

from gristmill.dags.engine.cut_record import parts_done
from gristmill.dags.engine.ledger import check_counts, count_nodes, kept_rows, part_ledger
from gristmill.dags.engine.product_losses import product_losses
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.runs.faults import file_faults
from gristmill.dags.runs.forget import hidden_problems
from gristmill.dags.runs.plan import open_run, require_finished, where_it_ran
from gristmill.errors import GristmillError
from gristmill.pipelines.shards.verify import verify_shards
from gristmill.pipelines.stage import Write


def verify_run(out: str) -> list[str]:
    """Everything that is wrong with a run, in words; empty if all is well."""
    layout = open_run(out)
    require_finished(layout)
    with where_it_ran(layout):
        return list(dict.fromkeys(_problems(layout)))


def _problems(layout: RunLayout) -> list[str]:
    # Those of products are found by their manifests, too.
    problems = [fault.text for fault in file_faults(layout) if not fault.product]
    parts = parts_done(layout)
    if parts is None or any(text.startswith("node ") for text in problems):
        return problems
    problems += _check_ledger(layout, parts)
    for node in layout.dag.order():
        if isinstance(layout.dag.stage(node), Write):
            problems += verify_shards(layout.folder.join_url(node))
    return problems + hidden_problems(layout, parts)


def _check_ledger(layout: RunLayout, parts: int) -> list[str]:
    """The counts add up, and the ledger on disk is what the committed parts say."""
    losses = product_losses(layout)
    counts = count_nodes(layout, parts, losses)
    problems = check_counts(layout.dag, counts)
    folder = layout.folder.sub("ledger")
    reader = RowReader(layout, many=True)
    rows = kept = 0
    for part in range(parts):
        try:
            table = folder.read_table(f"{part:06d}.parquet")
        except (GristmillError, OSError, ValueError) as error:
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
