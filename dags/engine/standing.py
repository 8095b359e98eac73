"""Which rows of a part came to be in the product: what stands when a list is added."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import ROWS
from gristmill.dags.graph import Dag, is_row_stage
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import MERGED
from gristmill.pipelines.stage import Map
from gristmill.pipelines.verdicts import MERGED as MERGED_VERDICT


def end_of(dag: Dag, last: str) -> str | None:
    """A node below the last row node, if any: what enters it is what was kept."""
    below = [name for name in dag.order() if last in dag.upstream(name)]
    return below[-1] if below else None


def kept_uids(dag: Dag, reader: RowReader, part: int, losses: Mapping[str, pa.Table]) -> set[str]:
    """uids of the rows of a part that are in the product, of those that went into such (the
    pictures of a document, captions of one image), and of those that such were made of (the video
    of a clip). `losses`: `product_losses`."""
    nodes = [name for name in dag.order() if is_row_stage(dag.stage(name))]
    end = end_of(dag, nodes[-1])
    kept = reader.entering(end, part, ["uid"]) if end else reader.leaving(nodes[-1], part, ["uid"])
    found = set(kept["uid"].to_pylist())
    for lost in losses.values():
        found -= set(lost["uid"].to_pylist())
    # From the product upwards, so that what went into a thing is known when its own parts are met.
    for node in reversed(nodes):
        stage = dag.stage(node)
        if isinstance(stage, Keep):
            rows = reader.table(node, part, ROWS, ["uid", "verdict", "value"])
            rows = rows.filter(pc.equal(rows["verdict"], MERGED_VERDICT))
            found |= _into(rows["uid"], rows["value"], found)
        elif isinstance(stage, Map):
            rows = reader.table(node, part, ROWS, ["uid", "status", "parent_uid"])
            is_merged = pc.equal(rows["status"], MERGED)
            merged, made = rows.filter(is_merged), rows.filter(pc.invert(is_merged))
            found |= _into(merged["uid"], merged["parent_uid"], found)
            found |= _into(made["parent_uid"], made["uid"], found)
    return found


def _into(uids: pa.ChunkedArray, others: pa.ChunkedArray, found: set[str]) -> set[str]:
    """Those of `uids` whose counterpart among `others` is found."""
    there = pc.and_(pc.is_valid(uids), pc.is_in(others, pa.array(sorted(found), pa.string())))
    return set(uids.filter(there).to_pylist())
