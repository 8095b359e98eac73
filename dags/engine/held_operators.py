"""What a worker process of Ray's keeps from task to task: operators, with their children and the
models in these.

A worker does one task at a time, of whatever operator Ray hands it. What it opened for an operator
is closed when no task has needed it for a while: the memory is somebody else's then.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import xxhash

from gristmill.dags.engine.on_local import Operator
from gristmill.dags.engine.stage_code import ShippedCode

# Seconds without a task after which an operator is closed.
IDLE_S = 10.0


@dataclass(frozen=True)
class Parcel:
    """An operator on its way to a worker, with the code that it is made of: a worker must have that
    before it can unpickle the operator."""

    code: ShippedCode | None
    operator: bytes
    digest: str

    @classmethod
    def of(cls, code: ShippedCode | None, operator: bytes) -> Parcel:
        """A pickled operator."""
        return cls(code, operator, xxhash.xxh3_128_hexdigest(operator))

    def open(self) -> Operator:
        """The operator, its code installed in this process."""
        if self.code is not None:
            self.code.install()
        operator: Operator = pickle.loads(self.operator)
        return operator


class _Held:
    """The operators of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Key -> operator and when it was last used; those at work are not in here.
        self._idle: dict[tuple[str, str], tuple[Operator, float]] = {}
        self._closing: threading.Thread | None = None

    @contextlib.contextmanager
    def operator(self, parcel: Parcel) -> Iterator[Operator]:
        """The operator of a parcel, this worker's own while the block lasts."""
        # Ray may give the next task another GPU, and a child stays on the one it began with.
        key = parcel.digest, os.environ.get("CUDA_VISIBLE_DEVICES", "")
        with self._lock:
            held = self._idle.pop(key, None)
        operator = held[0] if held else parcel.open()
        try:
            yield operator
        except BaseException:
            operator.close()
            raise
        if not operator.holds_worker:
            operator.close()
            return
        with self._lock:
            self._idle[key] = operator, time.monotonic()
            if self._closing is None:
                self._closing = threading.Thread(target=self._close_idle, daemon=True)
                self._closing.start()

    def _close_idle(self) -> None:
        left = True
        while left:
            time.sleep(IDLE_S / 4)
            with self._lock:
                since = time.monotonic() - IDLE_S
                stale = [key for key, (_, used) in self._idle.items() if used < since]
                operators = [self._idle.pop(key)[0] for key in stale]
                left = bool(self._idle)
                if not left:
                    self._closing = None
            for operator in operators:
                operator.close()


_held = _Held()


def held_operator(parcel: Parcel) -> contextlib.AbstractContextManager[Operator]:
    """The operator of a parcel, kept by this process for the next task with it."""
    return _held.operator(parcel)
