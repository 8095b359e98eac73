"""Graphs: what cannot work is refused before any work, with the remedy."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pytest
from toy_stages import ToyBrightness, ToyDraw, ToyLength, ToyRows

from gristmill.dags.dag_yaml import dump_dag, load_dag
from gristmill.dags.engine.fingerprint import fingerprints
from gristmill.dags.engine.schedule import Barrier, Chain, schedule
from gristmill.dags.graph import Dag, Node
from gristmill.dags.settings import apply_settings
from gristmill.errors import ConfigurationError, GraphError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.stage import Score
from gristmill.pipelines.videos.shots import Shots


def toy(**changes: Node) -> Dag:
    nodes = {
        "rows": Node(ToyRows()),
        "draw": Node(ToyDraw(), ("rows",)),
        "bright": Node(ToyBrightness(), ("draw",)),
        "length": Node(ToyLength(), ("draw",)),
        "keep": Node(Keep(rules={"dark": "brightness < 100"}), ("bright", "length")),
    }
    return Dag("toy", nodes | changes, part_rows=16)


def test_a_sound_graph_is_scheduled_in_chains_and_barriers() -> None:
    dag = toy()
    dag.validate()
    steps = list(schedule(dag))
    assert steps == [Chain((("draw",), ("bright", "length"))), Barrier("keep")]


def test_a_score_on_kept_rows_streams_after_the_barrier() -> None:
    dag = toy(late=Node(ToyLength(), ("keep",)))
    dag.validate()
    assert list(schedule(dag))[-1] == Chain((("late",),))


def test_a_cycle_is_named() -> None:
    dag = toy(length=Node(ToyLength(), ("draw", "late")), late=Node(ToyLength(), ("length",)))
    with pytest.raises(GraphError, match="cycle through keep, late, length"):
        dag.validate()


def test_an_unknown_input_gets_the_nearest_name() -> None:
    with pytest.raises(
        GraphError, match=r"takes 'darw', which does not exist; did you mean 'draw'"
    ):
        toy(length=Node(ToyLength(), ("darw",))).validate()


def test_a_missing_column_is_named_with_the_nearest() -> None:
    wrong = Keep(rules={"dark": "brigthness < 100"})
    with pytest.raises(GraphError, match=r"(?s)node 'keep': rule 'dark'.*brigthness"):
        toy(keep=Node(wrong, ("bright",))).validate()
    with pytest.raises(GraphError, match="reads column 'length', which no node before it writes"):
        toy(keep=Node(Keep(captions="best", best_by="length"), ("bright",))).validate()


@dataclass(frozen=True, kw_only=True)
class NoWrites(Score):
    """Misspelt its `writes`."""

    def wrights(self) -> pa.Schema:
        return pa.schema([pa.field("found", pa.int32())])


def test_a_score_that_writes_nothing_is_refused() -> None:
    with pytest.raises(GraphError, match=r"'mine': NoWrites writes no column; define writes\(\)"):
        toy(mine=Node(NoWrites(), ("draw",))).validate()


def test_a_rule_that_is_not_a_truth_value_is_refused() -> None:
    with pytest.raises(GraphError, match="not a truth value"):
        toy(keep=Node(Keep(rules={"dark": "brightness + 1"}), ("bright",))).validate()


def test_a_rule_cannot_reach_files() -> None:
    rule = "(SELECT count(*) FROM read_text('/etc/hostname')) > 0"
    with pytest.raises(GraphError, match="refused"):
        toy(keep=Node(Keep(rules={"spy": rule}), ("bright",))).validate()


def test_two_selections_of_the_same_rows_are_refused() -> None:
    with pytest.raises(GraphError, match="both decide about the rows of 'draw'"):
        toy(other=Node(Keep(), ("draw",))).validate()


def test_a_score_of_rows_that_went_on_without_it_is_refused() -> None:
    first = Node(Keep(rules={"dark": "brightness < 9"}), ("bright",))
    last = Node(Keep(rules={"short": "length < 9"}), ("first", "length"))
    late = {"first": first, "length": Node(ToyLength(), ("draw",)), "keep": last}
    with pytest.raises(GraphError, match=r"takes 'length', .* let 'length' take 'first', or"):
        toy(**late).validate()
    # Either of the two ways that are named.
    toy(**{**late, "length": Node(ToyLength(), ("first",))}).validate()
    toy(**{**late, "first": Node(first.stage, ("bright", "length"))}).validate()


def test_two_sources_and_none_are_refused() -> None:
    with pytest.raises(GraphError, match="2 sources"):
        toy(more=Node(ToyRows())).validate()
    with pytest.raises(GraphError, match="has inputs"):
        Dag("x", {"draw": Node(ToyDraw())}).validate()


def test_yaml_and_back_without_loss() -> None:
    dag = toy(draw=Node(ToyDraw(fails=("picture 3", "a: b")), ("rows",)))
    again = load_dag(dump_dag(dag))
    assert again == dag
    assert dump_dag(again) == dump_dag(dag)
    assert fingerprints(again) == fingerprints(dag)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [1", "is not YAML"),
        ("dag: x", "expected the keys"),
        ("dag: x\nnodes: {a: {}}", "needs a 'stage'"),
        ("dag: x\nnodes: {a: {stage: Dowload}}", "did you mean 'Download'"),
        ("dag: x\nnodes: {a: {stage: 'toy_stages:ToyRows', row: 3}}", "did you mean 'rows'"),
        ("dag: x\nnodes: {a: {stage: 'toy_stages:ToyRows', rows: many}}", "a whole number"),
        ("dag: x\nparts: 3\nnodes: {}", "unknown key 'parts'"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_dag(text)


def test_settings_are_typed_and_name_the_nearest_field() -> None:
    dag = apply_settings(
        toy(), ["rows.rows=7", "draw.fails=a, b", "keep.rules.short=length < 3", "part_rows=5"]
    )
    assert dag.stage("rows") == ToyRows(rows=7)
    assert dag.stage("draw") == ToyDraw(fails=("a", "b"))
    assert dag.stage("keep").rules == {"dark": "brightness < 100", "short": "length < 3"}
    assert dag.part_rows == 5
    assert apply_settings(dag, ["keep.rules.dark="]).stage("keep").rules == {"short": "length < 3"}
    for setting, message in {
        "rows.row=7": "did you mean 'rows'",
        "row.rows=7": "did you mean 'rows'",
        "rows.rows=many": "a whole number",
        "keep.rules.drak=": "did you mean 'dark'",
        "rows.rows": "write node.field=value",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            apply_settings(toy(), [setting])


def test_numbers_without_a_point_are_numbers_in_a_file_and_in_a_setting() -> None:
    text = (
        "dag: x\npart_rows: 1e2\nnodes:\n  rows: {stage: 'toy_stages:ToyRows', rows: 1e3}\n"
        "  shots: {stage: Shots, inputs: [rows], threshold: 1e-3}\n"
    )
    dag = load_dag(text)
    assert (dag.part_rows, dag.stage("rows")) == (100, ToyRows(rows=1000))
    assert dag.stage("shots") == Shots(threshold=0.001)
    assert load_dag(dump_dag(dag)) == dag
    changed = apply_settings(dag, ["part_rows=1e1", "rows.rows=2e1", "shots.threshold=5e-2"])
    assert (changed.part_rows, changed.stage("rows")) == (10, ToyRows(rows=20))
    assert changed.stage("shots") == Shots(threshold=0.05)
    for setting in ("rows.rows=1e-3", "rows.rows=.inf", "part_rows=2.5"):
        with pytest.raises(ConfigurationError, match="a whole number"):
            apply_settings(dag, [setting])


def test_a_fingerprint_covers_what_decides_the_output_and_nothing_else() -> None:
    base = fingerprints(toy())
    threshold = fingerprints(toy(keep=Node(Keep(rules={"dark": "brightness < 101"}), ("bright",))))
    assert {n for n in base if base[n] != threshold[n]} == {"keep"}
    source = fingerprints(toy(rows=Node(ToyRows(rows=41))))
    assert not set(base.values()) & set(source.values())
    reordered = [{"a": "length > 1", "b": "length > 2"}, {"b": "length > 2", "a": "length > 1"}]
    first, second = (
        fingerprints(toy(keep=Node(Keep(rules=rules), ("length",))))["keep"] for rules in reordered
    )
    assert first != second, "the order of rules decides the reason"
    assert fingerprints(toy(), limit=3)["rows"] != base["rows"]
