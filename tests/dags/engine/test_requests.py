"""What a run asks of its storage is counted by an S3 server: nothing is listed or read once a part
that can be read once a node."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest
from counted_runs import NODES, counted_dag, counting, draw, run
from s3_server import s3_server

from gristmill.dags.runs.plan import run_status
from gristmill.pipelines.patience import PATIENCE

_PART_ROWS = 2


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Counter[str]]:
    """(what, parts) -> requests by kind, of a run of 2 parts and one of 4."""
    folder = tmp_path_factory.mktemp("counted")
    found: dict[tuple[str, int], Counter[str]] = {}
    # Of a machine that is busy, not of a store that hangs: what is asked again is counted twice.
    with mock.patch.dict(os.environ, {PATIENCE: "30"}), s3_server() as server:
        for parts in (2, 4):
            pictures, out = folder / f"{parts}", f"s3://bucket/{parts}"
            draw(pictures, parts * _PART_ROWS)
            dag = counted_dag(Path(pictures), _PART_ROWS)
            with counting(server) as found["run", parts]:
                run(dag, out)
            with counting(server) as found["nothing", parts]:
                again = run(dag, out)
            assert all(node["reused"] == node["parts"] for node in again["nodes"].values())
            with counting(server) as found["status", parts]:
                run_status(out)
    return found


def test_nothing_to_do_asks_nothing_a_part(asked: dict[tuple[str, int], Counter[str]]) -> None:
    assert asked["nothing", 4] == asked["nothing", 2]
    # A listing and a bundle a node, and what a run asks once.
    assert asked["nothing", 4].total() <= 2 * NODES + 32
    assert asked["nothing", 4]["list"] <= NODES + 6


def test_status_asks_a_listing_and_a_bundle_a_node(
    asked: dict[tuple[str, int], Counter[str]],
) -> None:
    assert asked["status", 4] == asked["status", 2]
    assert asked["status", 4].total() <= 2 * NODES + 12


def test_a_part_is_asked_for_as_often_as_is_written_here(
    asked: dict[tuple[str, int], Counter[str]],
) -> None:
    more = asked["run", 4] - asked["run", 2]
    assert (more["get"] + more["put"]) / 2 <= 25
    # Nothing is looked at before it is read, or listed, a part; records that were gathered are
    # taken away many at once.
    assert more["head"] == more["list"] == 0 and more["delete"] < NODES
