"""One pace of hosts for a whole cluster: a small actor counts, and each worker process that runs
such a stage passes on to it what the stage's children ask.

The actor is the driver's. When its node is lost it is started again elsewhere, without its memory:
each host then waits once before it is asked. While it is away nobody takes a turn.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import ray
import ray.exceptions

from gristmill.dags.engine.pace_keeper import PaceKeeper
from gristmill.pipelines.download.pace import ADDRESS, LocalPace, PaceLost

# In the namespace of the driver's job: its own.
_NAME = "gristmill-pace"
# Seconds for one answer of the actor, between two questions while it is away, and for which it may
# be: about as long as Ray takes to see that a node is lost. Then a row is set aside.
_ANSWER_S, _AGAIN_S, _AWAY_S = 10.0, 1.0, 40.0


class PaceActor:
    """Counts for all."""

    def __init__(self) -> None:
        again = ray.get_runtime_context().was_current_actor_reconstructed
        self._pace = LocalPace(held=bool(again))

    def take(self, host: str, interval_s: float) -> float:
        """As `Pace.take`."""
        return self._pace.take(host, interval_s)

    def pause(self, host: str, seconds: float) -> float:
        """As `Pace.pause`."""
        self._pace.pause(host, seconds)
        return 0.0


class ActorPace:
    """Asks the actor, in a process that Ray knows. Raises `PaceLost` where none answers."""

    def take(self, host: str, interval_s: float) -> float:
        """Take the next turn at a host, if it is now."""
        return self._ask("take", host, interval_s)

    def pause(self, host: str, seconds: float) -> None:
        """Have a host left alone."""
        self._ask("pause", host, seconds)

    def _ask(self, method: str, host: str, seconds: float) -> float:
        end = time.monotonic() + _AWAY_S
        while True:
            try:
                # Ray's own types do not know the methods of an actor.
                actor: Any = ray.get_actor(_NAME)
                answer = getattr(actor, method).remote(host, seconds)
                return float(ray.get(answer, timeout=_ANSWER_S))
            except (ValueError, ray.exceptions.RayError) as error:
                if time.monotonic() > end:
                    raise PaceLost("the actor that keeps the pace of hosts is away") from error
            time.sleep(_AGAIN_S)


# The actor of this driver, which ends when nobody holds it; and the job that it belongs to.
_held: tuple[str, Any] | None = None
_lock = threading.Lock()
_keeper: PaceKeeper | None = None


def count_for_all() -> None:
    """In the driver: have an actor that counts, started once a job."""
    global _held
    job = ray.get_runtime_context().get_job_id()
    if _held is None or _held[0] != job:
        options = {"name": _NAME, "num_cpus": 0, "max_restarts": -1, "max_task_retries": 0}
        _held = job, ray.remote(PaceActor).options(**options).remote()


def pass_on() -> None:
    """In a worker: have what the children of this process ask passed on to the actor."""
    global _keeper
    with _lock:
        if _keeper is None:
            _keeper = PaceKeeper(ActorPace())
            os.environ[ADDRESS] = _keeper.address
