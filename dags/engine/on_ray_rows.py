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
Tally = dict[tuple[str, int], tuple[int, int]]
"""(node, part) -> rows done, rows of the part."""


class _Gatherer:
    """Keeps the last word about each part until it is fetched."""

    def __init__(self) -> None:
        self._last: Tally = {}

    def tell(self, tally: Tally) -> None:
        """Take it."""
        self._last |= tally

    def fetch(self) -> Tally:
        """Hand out what has come."""
        last, self._last = self._last, {}
        return last


class Teller:
    """Stands in an operator, and tells the gatherer, at most twice a second."""

    def __init__(self, name: str) -> None:
        self.name = name
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
            gatherer: Any = ray.get_actor(self.name)
            gatherer.tell.remote(self._waiting)
            self._waiting = {}


@contextlib.contextmanager
def listening(hears: RowsDone) -> Iterator[Teller]:
    """Within the block, what the teller is told reaches `hears`, wherever the teller is."""
    teller = Teller(f"gristmill-rows-{uuid.uuid4().hex}")
    stop = threading.Event()
    thread = threading.Thread(target=_fetch, args=(teller.name, hears, stop), daemon=True)
    thread.start()
    try:
        yield teller
    finally:
        stop.set()
        thread.join()


def _fetch(name: str, hears: RowsDone, stop: threading.Event) -> None:
    if stop.wait(_PATIENCE_S):
        return
    gatherer: Any = ray.remote(num_cpus=0)(_Gatherer).options(name=name).remote()
    # A cluster that loses the actor, or has no room for it, goes on without bars that move.
    with contextlib.suppress(ray.exceptions.RayError):
        while not stop.wait(_EVERY_S):
            ready, _ = ray.wait([gatherer.fetch.remote()], timeout=5.0)
            for (node, part), (done, of) in ray.get(ready[0]).items() if ready else ():
                hears(node, part, done, of)
