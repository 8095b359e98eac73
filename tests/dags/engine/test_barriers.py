"""Barriers: what is finished is known without a change, and room is made for what is not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pytest
from toy_run import lay, put, toy_dag

from gristmill.dags.engine.barriers import barrier_state, finish, is_finished, make_room
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.tombstones import add_tombstones
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.stage import Phase, Write


@dataclass(frozen=True, kw_only=True)
class Product(Write):
    """Writes nothing."""

    def phases(self) -> tuple[Phase, ...]:
        return ()


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    """Two parts above `keep`, and its verdicts, which `shards` builds on."""
    layout = lay(tmp_path, toy_dag(shards=Product()))
    for node in ("draw", "bright", "length", "keep"):
        for part in range(2):
            put(layout, node, part, pa.table({"uid": [f"{node}{part}"]}))
    return layout


def done(layout: RunLayout, node: str) -> bool:
    return is_finished(layout, node, barrier_state(layout, node, 2))


def do(layout: RunLayout, node: str) -> None:
    make_room(layout, node, barrier_state(layout, node, 2))
    finish(layout, node, 2)


def contents(layout: RunLayout) -> dict[str, bytes]:
    return {name: layout.folder.read_bytes(name) for name in layout.folder.walk()}


@pytest.mark.parametrize("node", ["keep", "shards"])
def test_done_is_done_and_asking_changes_nothing(layout: RunLayout, node: str) -> None:
    before = contents(layout)
    assert not done(layout, node)
    assert contents(layout) == before
    do(layout, node)
    before = contents(layout)
    assert done(layout, node)
    assert contents(layout) == before


def test_what_was_begun_for_the_same_goes_on(layout: RunLayout) -> None:
    make_room(layout, "keep", barrier_state(layout, "keep", 2))
    folder = layout.folder.sub(layout.node_folder("keep"))
    folder.write_json("phase-verdicts/000000.json", {"seconds": 1})
    make_room(layout, "keep", barrier_state(layout, "keep", 2))
    assert folder.exists("phase-verdicts/000000.json") and not done(layout, "keep")


def test_another_input_makes_room_for_a_new_start(layout: RunLayout) -> None:
    do(layout, "keep")
    put(layout, "bright", 1, pa.table({"uid": ["another"]}))
    assert not done(layout, "keep")
    make_room(layout, "keep", barrier_state(layout, "keep", 2))
    assert layout.folder.sub(layout.node_folder("keep")).names() == ["state.json"]


def test_another_number_of_parts_is_another_state(layout: RunLayout) -> None:
    do(layout, "keep")
    assert not is_finished(layout, "keep", barrier_state(layout, "keep", 1))


def test_what_is_forgotten_belongs_to_the_state_of_a_selection_alone(layout: RunLayout) -> None:
    nodes = ("keep", "shards")
    before = {node: barrier_state(layout, node, 2) for node in nodes}
    add_tombstones(layout.folder, [{"kind": "uid", "value": "a", "when": "now", "why": ""}])
    after = {node: barrier_state(layout, node, 2) for node in nodes}
    assert after["keep"] != before["keep"] and after["shards"] == before["shards"]


def test_a_product_belongs_to_one_configuration(layout: RunLayout) -> None:
    do(layout, "shards")
    layout.folder.write_bytes("shards/manifest.json", b"{}")
    other = replace(layout, fingerprints={**layout.fingerprints, "shards": "f" * 64})
    assert not done(other, "shards") and done(layout, "shards")
    do(other, "shards")
    assert not layout.folder.exists("shards/manifest.json")
    # Its own folder says finished still, but what lies in the product is the other's.
    assert done(other, "shards") and not done(layout, "shards")


@pytest.mark.parametrize("laid_down", [{}, {"saved": "2"}])
def test_what_a_former_release_finished_is_taken_and_what_it_had_begun_is_begun_anew(
    laid_down: dict[str, str], layout: RunLayout
) -> None:
    """Its records of a node over all parts say nothing of how phases lay down what they save."""
    state = barrier_state(layout, "keep", 2)
    folder = layout.folder.sub(layout.node_folder("keep"))
    former = {"inputs": state["inputs"], **laid_down}
    assert state["saved"] not in former.values()
    write_sealed(folder, "state.json", former)
    folder.write_bytes("saved/of-before.npy", b"x")
    finish(layout, "keep", 2)
    assert is_finished(layout, "keep", state)
    folder.remove("finished.json")
    assert not is_finished(layout, "keep", state)
    make_room(layout, "keep", state)
    assert not folder.exists("saved/of-before.npy")
