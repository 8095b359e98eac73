"""The order of nodes: chains stream, barriers wait, groups share an operator."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest
from toy_run import lay, put, toy_dag
from toy_stages import ToyDraw, ToyLength, ToyRows

from gristmill.dags.engine.schedule import Barrier, Chain, schedule, state_digest
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.keep import Keep

ROWS, DRAW, LENGTH, KEEP = ToyRows(), ToyDraw(), ToyLength(), Keep()


@pytest.mark.parametrize(
    ("edges", "steps"),
    [
        ({}, []),
        ({"draw": (DRAW, "rows")}, [Chain((("draw",),))]),
        # Two Maps follow one another; Scores of the same rows share an operator.
        (
            {"draw": (DRAW, "rows"), "again": (DRAW, "draw"), "a": (LENGTH, "again"),
             "b": (LENGTH, "again")},
            [Chain((("draw",), ("again",), ("a", "b")))],
        ),
        # A Score that builds on another one comes after it, not with it.
        (
            {"draw": (DRAW, "rows"), "a": (LENGTH, "draw"), "b": (LENGTH, "draw a")},
            [Chain((("draw",), ("a",), ("b",)))],
        ),
        # What follows a barrier is a chain of its own.
        (
            {"draw": (DRAW, "rows"), "keep": (KEEP, "draw"), "a": (LENGTH, "keep"),
             "last": (KEEP, "a")},
            [Chain((("draw",),)), Barrier("keep"), Chain((("a",),)), Barrier("last")],
        ),
        # A Score beside a barrier does not wait for it.
        (
            {"draw": (DRAW, "rows"), "keep": (KEEP, "draw"), "a": (LENGTH, "draw")},
            [Chain((("draw",), ("a",))), Barrier("keep")],
        ),
    ],
)  # fmt: skip
def test_steps(edges: dict[str, tuple[object, str]], steps: list[object]) -> None:
    nodes = {"rows": Node(ROWS)}
    for name, (stage, inputs) in edges.items():
        nodes[name] = Node(stage, tuple(inputs.split()))  # type: ignore[arg-type]
    assert list(schedule(Dag("toy", nodes))) == steps


def test_the_state_of_a_barrier_follows_its_inputs_alone(tmp_path: Path) -> None:
    layout = lay(tmp_path, toy_dag())
    for node in ("bright", "length"):
        for part in range(2):
            put(layout, node, part, pa.table({"uid": [f"{node}{part}"]}))
    first = state_digest(layout, "keep", 2)
    assert state_digest(layout, "keep", 1) != first
    put(layout, "draw", 0, pa.table({"uid": ["not an input"]}))
    assert state_digest(layout, "keep", 2) == first
    # The same contents under another name are the same state.
    put(layout, "length", 1, pa.table({"uid": ["length1"]}))
    assert state_digest(layout, "keep", 2) == first
    put(layout, "length", 1, pa.table({"uid": ["other"]}))
    assert state_digest(layout, "keep", 2) != first
    other = dataclasses.replace(layout, limit=3)
    assert state_digest(other, "keep", 2) == state_digest(layout, "keep", 2)
