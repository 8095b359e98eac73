"""Rows done, from workers anywhere in a cluster to the driver: by way of an actor, never a store.

The actor is started only once a chain takes longer than a moment; a worker that finds none says
nothing.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import ray
import ray.exceptions

from gristmill.dags.engine.rows_done import RowsDone

_EVERY_S = 0.5
# A chain that is done sooner needs no bars.
_PATIENCE_S = 1.0
# In the namespace of the driver's job: its own.
_NAME = "gristmill-rows"
Tally = dict[tuple[str, int], tuple[int, int]]
"""(node, part) -> rows done, rows of the part."""


class _Gatherer:
    """Keeps the last word about each part, chain by chain, until it is fetched."""

    def __init__(self) -> None:
        self._last: dict[str, Tally] = {}

    def tell(self, chain: str, tally: Tally) -> None:
        """Take it."""
        self._last.setdefault(chain, {}).update(tally)

    def fetch(self, chain: str) -> Tally:
        """Hand out what has come."""
        return self._last.pop(chain, {})


class Teller:
    """Stands in an operator, and tells the gatherer, at most twice a second."""

    def __init__(self, chain: str) -> None:
        self.chain = chain
        self._waiting: Tally = {}
        self._told = 0.0

    def __call__(self, node: str, part: int, done: int, of: int, /) -> None:
        """Take note; say it when it is time."""
        self._waiting[node, part] = done, of
        now = time.monotonic()
        if now - self._told < _EVERY_S:
            return
        self._told = now
        with contextlib.suppress(ValueError, ray.exceptions.RayError):
            # Ray's own types do not know the methods of an actor.
            gatherer: Any = ray.get_actor(_NAME)
            gatherer.tell.remote(self.chain, self._waiting)
            self._waiting = {}


@contextlib.contextmanager
def listening(hears: RowsDone) -> Iterator[Teller]:
    """Within the block, what the teller is told reaches `hears`, wherever the teller is."""
    teller = Teller(uuid.uuid4().hex)
    stop = threading.Event()
    thread = threading.Thread(target=_fetch, args=(teller.chain, hears, stop), daemon=True)
    thread.start()
    try:
        yield teller
    finally:
        stop.set()
        thread.join()


# The actor of this driver, which ends when nobody holds it; and the job that it belongs to.
_gatherer: tuple[str, Any] | None = None


def _gatherer_of_job() -> Any:
    """Started once a driver: a process for each chain would cost more than many a chain."""
    global _gatherer
    job = ray.get_runtime_context().get_job_id()
    if _gatherer is None or _gatherer[0] != job:
        _gatherer = job, ray.remote(num_cpus=0)(_Gatherer).options(name=_NAME).remote()
    return _gatherer[1]


def _fetch(chain: str, hears: RowsDone, stop: threading.Event) -> None:
    if stop.wait(_PATIENCE_S):
        return
    # A cluster that loses the actor, or has no room for it, goes on without bars that move.
    with contextlib.suppress(ray.exceptions.RayError):
        gatherer = _gatherer_of_job()
        while not stop.wait(_EVERY_S):
            ready, _ = ray.wait([gatherer.fetch.remote(chain)], timeout=5.0)
            for (node, part), (done, of) in ray.get(ready[0]).items() if ready else ():
                hears(node, part, done, of)
