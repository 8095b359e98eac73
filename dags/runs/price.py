"""What a whole run would cost, from a pilot and the prices of whoever runs it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from gristmill.dags.graph import Dag
from gristmill.dags.runs.pilot import NodeCost, Pilot
from gristmill.errors import ConfigurationError, nearest
from gristmill.pipelines.stage import Write

# Requests to an object store of a part and node, and of a sample of a shard, at most: what
# `benchmarks/storage_requests.py` counts, rounded up; tests/dags/engine/test_requests.py holds it.
REQUESTS_A_PART = 6.0
REQUESTS_A_SAMPLE = 0.3


@dataclass(frozen=True)
class Prices:
    """Of one unit each, in whatever money."""

    # A core, and a GPU beside it, for an hour.
    cpu: float = 0.0
    gpu: float = 0.0
    # A request to the object store.
    request: float = 0.0
    # 10^9 bytes, stored for a month.
    gb: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What all rows would take."""

    core_hours: float
    gpu_hours: float
    requests: float
    gb: float
    # Price of each, as in `Prices`, and of all.
    money: Prices
    total: float
    # Half of the width of the 90 % interval of `total`, from how the pilot's parts differ.
    spread: float


def parse_prices(text: str, pilot: int) -> Prices:
    """`gpu=2.5,cpu=0.05,request=0.4e-6,gb=0.023`, in any order; what is left out costs nothing.

    Raises `ConfigurationError` for anything else, and without rows of a pilot.
    """
    if not pilot:
        raise ConfigurationError("--price is about what a pilot finds; add --pilot ROWS")
    names = [field.name for field in dataclasses.fields(Prices)]
    found: dict[str, float] = {}
    for item in filter(None, text.replace(" ", "").split(",")):
        name, _, value = item.partition("=")
        if name not in names:
            raise ConfigurationError(f"--price {item}: no such price; {nearest(name, names)}")
        if name in found:
            raise ConfigurationError(f"--price names {name} twice")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not 0 <= found[name] < math.inf:
            raise ConfigurationError(f"--price {item}: a price is a number from 0 on")
    if not found:
        raise ConfigurationError("--price says nothing; e.g. cpu=0.05,gpu=2.5,gb=0.023")
    return Prices(**found)


def cost_of(pilot: Pilot, dag: Dag, prices: Prices, *, is_remote: bool) -> Cost:
    """What the whole source would cost; requests are paid where the run `is_remote`."""
    cores = gpus = variance = 0.0
    for node in pilot.nodes:
        needs = dag.stage(node.node).needs()
        hours = node.seconds / 3600
        cores += hours * needs.cpus
        gpus += hours * needs.gpus
        money = hours * (needs.cpus * prices.cpu + needs.gpus * prices.gpu)
        variance += (money * node.spread) ** 2
    requests = _requests(pilot.nodes, dag) if is_remote else 0.0
    size = sum(node.bytes for node in pilot.nodes) / 1e9
    money_of = Prices(
        cpu=cores * prices.cpu, gpu=gpus * prices.gpu, request=requests * prices.request,
        gb=size * prices.gb,
    )  # fmt: skip
    total = sum(dataclasses.astuple(money_of))
    return Cost(cores, gpus, requests, size, money_of, total, math.sqrt(variance))


def _requests(nodes: Iterable[NodeCost], dag: Dag) -> float:
    """Of all rows: by parts, and by samples where shards are written."""
    found = 0.0
    for node in nodes:
        if isinstance(dag.stage(node.node), Write):
            found += node.rows * REQUESTS_A_SAMPLE
        else:
            found += node.parts * REQUESTS_A_PART
    return found


def render_cost(cost: Cost) -> str:
    """One line: the sum, and what it is made of."""
    money = cost.money
    pieces = [
        f"{cost.core_hours:,.4g} core hours {_sum(money.cpu)}",
        f"{cost.gpu_hours:,.4g} GPU hours {_sum(money.gpu)}",
        f"{cost.requests:,.0f} requests {_sum(money.request)}",
        f"{cost.gb:,.4g} GB for a month {_sum(money.gb)}",
    ]
    return (
        f"at these prices {_sum(cost.total)}, give or take {_sum(cost.spread)}: {', '.join(pieces)}"
    )


def _sum(money: float) -> str:
    """Hundredths, or two digits of what is less than one."""
    return f"{money:,.2f}" if money >= 1 or not money else f"{money:.2g}"
