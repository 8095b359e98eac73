"""Where the parts of a run lie, before anything is read but the source's manifest."""

from __future__ import annotations

from functools import partial

from gristmill.dags.engine.additions import read_additions
from gristmill.dags.engine.cut_record import parts_done
from gristmill.dags.engine.fingerprint import fingerprints
from gristmill.dags.engine.part_size import with_part_size
from gristmill.dags.engine.read_parts import ask_source
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.source_types import with_source_types
from gristmill.dags.engine.stage_code import is_of_users
from gristmill.dags.graph import Dag
from gristmill.errors import ConfigurationError
from gristmill.pipelines.stage import Read
from gristmill.pipelines.storage import Folder


def lay_out(dag: Dag, out: str, limit: int = 0) -> RunLayout:
    """Validate a Dag and find where its nodes' parts lie. Reads the source's manifest, no rows."""
    if limit < 0:
        raise ConfigurationError(f"limit is {limit}; 0 means all rows")
    if len([node for node in dag.nodes.values() if isinstance(node.stage, Read)]) == 1:
        # Rules are tried on columns that have a type.
        dag = ask_source(dag, partial(with_source_types, dag))
    dag.validate()
    source = dag.stage(dag.source)
    assert isinstance(source, Read)
    ask_source(dag, source.check)
    # Before the other checks: a wrong path is the commonest mistake, and a model the slowest check.
    manifest = ask_source(dag, source.manifest)
    folder = Folder(out)
    size = partial(
        with_part_size, dag, folder, manifest, source.estimate_rows, source.largest_part(),
        of_users=is_of_users(source),
    )  # fmt: skip
    dag = ask_source(dag, size)
    ask_source(dag, dag.check_stages)
    found = fingerprints(dag, limit=limit, manifest=manifest)
    return RunLayout(folder.url, dag, found, limit, read_additions(folder))


def check_source(layout: RunLayout) -> None:
    """Look at the headers of lists that are still to be read; `SourceError` if one cannot work."""
    for one in layout.lists:
        if parts_done(one) is None:
            ask_source(layout.dag, one.reading.check_columns)
