"""Prices as people write them, and what a pilot's figures come to."""

from __future__ import annotations

import dataclasses

import pytest
from command import gristmill
from run_world import small_dag

from gristmill.dags.graph import Dag
from gristmill.dags.runs.pilot import NodeCost, Pilot
from gristmill.dags.runs.price import (
    REQUESTS_A_PART,
    REQUESTS_A_SAMPLE,
    Prices,
    cost_of,
    parse_prices,
    render_cost,
)
from gristmill.errors import ConfigurationError


def pilot(dag: Dag, **figures: float) -> Pilot:
    """Nodes that all cost the same."""
    known = {"rows": 1e6, "seconds": 36_000.0, "bytes": 5e9, "parts": 100.0, "spread": 0.1}
    nodes = [
        NodeCost(
            node=node, stage="", rows_in=100, kept=1.0, rows_per_s=1.0, peak_mb=1.0,
            bytes_per_row=1.0, **(known | figures),  # type: ignore[arg-type]
        )
        for node in dag.order()
    ]  # fmt: skip
    return Pilot(100, 10**6, 100, nodes, 2)


def test_prices_in_any_order_with_units_of_nothing() -> None:
    found = parse_prices("gpu=2.5, cpu=0.05,request=0.4e-6,gb=0.023", 10)
    assert found == Prices(cpu=0.05, gpu=2.5, request=0.4e-6, gb=0.023)
    assert parse_prices("cpu=1", 10) == Prices(cpu=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus=2", "did you mean 'gpu'"),
        ("cpu", "a price is a number"),
        ("cpu=-1", "a price is a number from 0 on"),
        ("cpu=nan", "a price is a number"),
        ("cpu=inf", "a price is a number"),
        ("cpu=1,cpu=2", "names cpu twice"),
        (",", "says nothing"),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_prices(text, 10)


def test_a_price_without_a_pilot_is_refused_before_any_work() -> None:
    with pytest.raises(ConfigurationError, match="add --pilot"):
        parse_prices("cpu=1", 0)
    said = gristmill("plan", "image-text", "--out", "x", "--source", "y.csv", "--price", "cpu=1")
    assert said.returncode == 2 and "--pilot ROWS" in said.stderr


def test_hours_bytes_and_requests_are_paid_as_nodes_need_them() -> None:
    dag = small_dag()
    costly = dataclasses.replace(dag.stage("light"))
    prices = Prices(cpu=0.05, gpu=2.5, request=0.4e-6, gb=0.023)
    nodes = len(dag.nodes)
    cores = sum(dag.stage(node).needs().cpus for node in dag.nodes) * 10
    found = cost_of(pilot(dag.replace("light", costly)), dag, prices, is_remote=True)
    assert found.core_hours == pytest.approx(cores) and found.gpu_hours == 0
    assert found.gb == pytest.approx(5 * nodes)
    requests = (nodes - 1) * 100 * REQUESTS_A_PART + 1e6 * REQUESTS_A_SAMPLE
    assert found.requests == pytest.approx(requests)
    money = cores * 0.05 + requests * 0.4e-6 + 5 * nodes * 0.023
    assert found.total == pytest.approx(money)
    # Of nodes that differ independently: less than the tenth that each may.
    assert 0 < found.spread < 0.1 * cores * 0.05
    assert cost_of(pilot(dag, spread=0.0), dag, prices, is_remote=True).spread == 0
    here = cost_of(pilot(dag), dag, prices, is_remote=False)
    assert here.requests == 0 and "0 requests 0.00" in render_cost(here)
    assert f"{cores:,.4g} core hours {cores * 0.05:,.2f}" in render_cost(found)
    small = render_cost(cost_of(pilot(dag, seconds=3.0), dag, prices, is_remote=False))
    assert "core hours 0.00019" in small, "little is not nothing"


def test_what_is_paid_for_is_what_is_held() -> None:
    """tests/dags/engine/test_requests.py allows so many of eight nodes."""
    assert REQUESTS_A_PART * 8 >= 45
