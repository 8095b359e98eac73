"""Where parts lie is known before a row is read, and what cannot work is said then."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import advance, toy_dag

from gristmill.dags.engine.lay_out import check_source, lay_out
from gristmill.dags.graph import Dag, Node
from gristmill.errors import ConfigurationError, GraphError, SourceError
from gristmill.pipelines.sources.source import Source


def test_the_same_dag_lies_at_the_same_place_and_another_elsewhere(tmp_path: Path) -> None:
    first = lay_out(toy_dag(), str(tmp_path))
    assert lay_out(toy_dag(), str(tmp_path)).fingerprints == first.fingerprints
    assert lay_out(toy_dag(), str(tmp_path), limit=3).fingerprints != first.fingerprints
    assert first.dag.part_rows == 8 and not list(tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match="limit is -1"):
        lay_out(toy_dag(), str(tmp_path), limit=-1)


def test_what_cannot_work_is_said_before_a_row_is_read(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere"):
        lay_out(Dag("no", {"source": Node(Source(path=str(tmp_path / "nowhere")))}), str(tmp_path))
    loop = toy_dag()
    looped = Dag("loop", dict(loop.nodes) | {"draw": Node(loop.stage("draw"), ("draw",))})
    with pytest.raises(GraphError, match="cycle"):
        lay_out(looped, str(tmp_path))


def test_the_header_of_a_source_that_was_read_is_not_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("nothing,of,use\n1,2,3\n")
    dag = Dag("list", {"source": Node(Source(path=str(path)))}, part_rows=8)
    layout = lay_out(dag, str(tmp_path / "run"))
    with pytest.raises(SourceError):
        check_source(layout)
    done = lay_out(toy_dag(), str(tmp_path / "done"))
    advance(done, "rows")
    check_source(done)
