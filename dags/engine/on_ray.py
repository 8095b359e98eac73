"""The Ray runner: each operator's work on a part is a task of Ray's.

Only this module and its neighbours import ray. What is handed to a task and comes back are numbers,
so nothing big ever crosses the object store or the driver. Ray gives each task the cores, the GPU
and the memory that its operator needs, wherever there are some: operators of a chain, and other
runs of the cluster, share what there is from moment to moment, a node that joins gets the next
tasks, an autoscaler sees those that wait. A task whose worker dies is tried again a finite number
of times; what it had not committed is done again. Worker processes live on from task to task, and
keep what they opened for an operator (`held_operators.py`).

Ray Data, which was here before, shares cores evenly among the operators of a pipeline and for good
once they run, freezes its pools at the start, and ends a pipeline with the first part that fails;
its streaming of blocks has nothing to stream here.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar, cast

# Ray's C++ side writes to the terminal by itself; what matters reaches us as exceptions.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
# Workers that it ends because a node is short of memory count as lost ones do.
os.environ.setdefault("RAY_task_oom_retries", "8")

import ray
import ray.exceptions
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gristmill import errors
from gristmill.dags.engine.cluster_address import cluster_address
from gristmill.dags.engine.flow import flow
from gristmill.dags.engine.held_operators import Parcel, held_operator
from gristmill.dags.engine.on_local import Operator
from gristmill.dags.engine.on_ray_pace import count_for_all, pass_on
from gristmill.dags.engine.on_ray_rows import listening
from gristmill.dags.engine.operators import PartOperator
from gristmill.dags.engine.ray_token import own_token
from gristmill.dags.engine.rows_done import RowsDone
from gristmill.dags.engine.stage_code import ShippedCode
from gristmill.errors import GristmillError, WorkerError
from gristmill.pipelines.fork_server import share

if TYPE_CHECKING:
    _Ref = ray.ObjectRef[tuple[str, object]]

_T = TypeVar("_T")

# How often a part is tried again because its worker was lost.
MAX_RESTARTS = 8
# Seconds between two looks at what the cluster has.
_LOOK_S = 5.0
# Tasks of an operator that are asked for at least, however small the cluster is now.
_FEWEST = 4
# The store carries part numbers only.
OBJECT_STORE_BYTES = 100 * 2**20


class RayRunner:
    """Runs on the cluster at `address` (or `RAY_ADDRESS`), or on a Ray started for this run."""

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        code: ShippedCode | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        self.address = cluster_address(address)
        # Workers for each operator at most; None: as many as the cluster has room for.
        self.workers = workers
        # Files of the user's that workers import; None: they have all they need.
        self.code = code
        # Who is told what a run waits for.
        self.note = note
        self._started = False
        self._token = contextlib.ExitStack()

    def __enter__(self) -> RayRunner:
        if not ray.is_initialized():
            self._start()
            self._started = True
        return self

    def _start(self) -> None:
        # Named, or else Ray joins whatever cluster was last started on this machine.
        start = functools.partial(
            ray.init, address=self.address or "local", logging_level=logging.ERROR,
            log_to_driver=False,
        )  # fmt: skip
        if not self.address:
            self._token.enter_context(own_token())
            start = functools.partial(
                start, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES
            )
        try:
            with _silent_stderr(), _own_sigterm():
                start()
        except ConnectionError as error:
            raise WorkerError(
                f"no Ray cluster answers at {self.address}: {error}; start one with "
                "'ray start --head' and give --address auto on one of its nodes, or leave out "
                "--address to run on this machine"
            ) from error
        # A start that takes too long is a bare Exception.
        except Exception as error:
            self._stop()
            raise WorkerError(
                f"Ray did not start ({str(error).strip()}); on a machine that is busy give the "
                "same command again, or run in this process with --runner local"
            ) from error

    def __exit__(self, *error: object) -> None:
        if self._started:
            self._stop()
            self._started = False

    def _stop(self) -> None:
        ray.shutdown()
        self._token.close()
        # Or else the next cluster that this process joins is shown the token of this one.
        AuthenticationTokenLoader.instance().reset_cache()

    def run(self, tasks: Sequence[int], operators: Sequence[Operator]) -> Iterator[int]:
        """Yield each task when all operators have done it, in the order of completion."""
        if not tasks:
            return iter(())
        return flow(tasks, len(operators), _Tasks(self, operators))

    def listening(self, hears: RowsDone) -> AbstractContextManager[RowsDone]:
        """What operators tell is gathered by an actor, and fetched twice a second."""
        return listening(hears)

    def pacing(self) -> AbstractContextManager[object]:
        """Counted by an actor, which workers of all nodes ask."""
        count_for_all()
        return contextlib.nullcontext()

    def everywhere(self, look: Callable[[], str]) -> list[str]:
        """What `look` says on each node with a core, by a task there that takes none of them."""
        task = ray.remote(num_cpus=0, max_retries=MAX_RESTARTS)(_call)
        sent = (self.code, ray.cloudpickle.dumps(look))
        places = [
            NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
            for node in ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU")
        ]
        # A cluster that has no worker yet gets one for the question.
        asked = [task.options(scheduling_strategy=place).remote(*sent) for place in places] or [
            task.options(num_cpus=1).remote(*sent)
        ]
        return [str(_answer(ref)) for ref in asked]

    def apart(self, work: Callable[[], _T]) -> _T:
        """What `work` returns, done by a task."""
        task = ray.remote(max_retries=MAX_RESTARTS)(_call)
        return cast(_T, _answer(task.remote(self.code, ray.cloudpickle.dumps(work))))


class _Tasks:
    """Tasks of Ray's, for the operators of one chain."""

    def __init__(self, runner: RayRunner, operators: Sequence[Operator]) -> None:
        self._runner = runner
        self._needs = [operator.needs() for operator in operators]
        self._parcels = [
            ray.put(Parcel.of(runner.code, ray.cloudpickle.dumps(operator)))
            for operator in operators
        ]
        self._looked = 0.0
        self._most = [0] * len(operators)
        # What a task asks for: no more than the largest node has.
        self._asked: list[dict[str, Any]] = [{} for _ in operators]
        # What nobody has yet, and was said.
        self._missed: set[str] = set()

    def has_room(self, index: int, under_way: Sequence[int]) -> bool:
        # Nodes come and go.
        now = time.monotonic()
        if not self._looked or now - self._looked > _LOOK_S:
            self._looked = now
            self._look()
        return under_way[index] < self._most[index]

    def _look(self) -> None:
        """See how many tasks of each operator the cluster has room for, and as many again: those
        that wait are begun without a pause, and are what an autoscaler goes by."""
        total: dict[str, float] = ray.cluster_resources()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        largest = {
            name: max((node.get(name, 0.0) for node in nodes), default=0.0)
            for name in ("CPU", "memory")
        }
        for index, needs in enumerate(self._needs):
            if not largest["CPU"]:
                self._miss("a node with a core")
            # A cluster that has no worker yet may get one as large as is asked for.
            cpus = min(needs.cpus, largest["CPU"] or needs.cpus)
            memory = min(needs.memory_gb * 2**30, largest["memory"] or needs.memory_gb * 2**30)
            rooms: list[float] = [total.get("CPU", 0.0) / cpus] if cpus else [_FEWEST]
            if memory:
                rooms.append(total.get("memory", 0.0) / memory)
            if needs.gpus:
                rooms.append(self._gpus(total, needs.gpus) / needs.gpus)
            self._most[index] = self._runner.workers or max(_FEWEST, 2 * int(min(rooms)))
            self._asked[index] = {"num_cpus": cpus, "num_gpus": needs.gpus, "memory": int(memory)}

    def _gpus(self, total: dict[str, float], needed: float) -> float:
        gpus = total.get("GPU", 0.0)
        if gpus < needed and not self._runner.address:
            # Nobody can add one to a Ray of our own; a cluster's autoscaler may bring it.
            raise WorkerError(
                f"an operator needs {needed:g} GPUs and this machine has {gpus:g}; set the stage's "
                "gpus to 0 or connect to a cluster"
            )
        if gpus < needed:
            self._miss(f"a node with {needed:g} GPUs (set the stage's gpus to 0 to do without)")
        return gpus

    def _miss(self, what: str) -> None:
        """Say once what tasks wait for."""
        if what not in self._missed and self._runner.note is not None:
            self._runner.note(f"the cluster has no {what.removeprefix('a ')} yet; waiting for it")
        self._missed.add(what)

    def submit(self, index: int, task: int, *, again: bool) -> _Ref:
        options = self._asked[index] | {
            "max_retries": MAX_RESTARTS,
            # Ray would prefer the node that it just failed on.
            "scheduling_strategy": "SPREAD" if again else "DEFAULT",
        }
        return _remote.options(**options).remote(self._parcels[index], task)

    def wait(self, under_way: Sequence[_Ref]) -> Sequence[tuple[_Ref, BaseException | None]]:
        refs = list(under_way)
        ready, rest = ray.wait(refs, num_returns=1, timeout=_LOOK_S)
        if ready and rest:
            more, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
            ready += more
        return [(ref, _outcome(ref)) for ref in ready]

    def stop(self, under_way: Sequence[_Ref]) -> None:
        for ref in under_way:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(ref, force=True)


def _answer(ref: _Ref) -> object:
    """What a task returned; raises what it raised, in its worker or because it lost that."""
    try:
        kind, value = ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        raise WorkerError(f"a task cannot be begun: {str(error).strip()}") from error
    except ray.exceptions.RayError as error:
        raise WorkerError(
            f"a worker was lost {MAX_RESTARTS} times: {str(error).strip()}"
        ) from error
    if kind:
        raise _rebuild(kind, str(value))
    return value


def _outcome(ref: _Ref) -> BaseException | None:
    """What a task raised."""
    try:
        _answer(ref)
    except GristmillError as error:
        return error
    return None


def _guarded(work: Callable[[], object]) -> tuple[str, object]:
    """What work returns; or how it failed, as the name of one of our exceptions and its message.
    Errors travel as data, so that the driver can name them."""
    try:
        return "", work()
    except GristmillError as error:
        return type(error).__name__, str(error)
    except Exception as error:
        return "WorkerError", f"{error!r}\n{traceback.format_exc()}"


def _do(parcel: Parcel, task: int) -> tuple[str, object]:
    """A task of an operator."""

    context = ray.get_runtime_context()
    share(f"{context.get_node_id()} {context.get_job_id()}")

    def work() -> bool:
        with held_operator(parcel) as operator:
            if isinstance(operator, PartOperator) and operator.is_paced:
                pass_on()
            return operator(task)

    return _guarded(work)


# A worker with a GPU would end with its first task otherwise.
_remote = ray.remote(max_calls=0)(_do)


def _call(code: ShippedCode | None, work: bytes) -> tuple[str, object]:
    """A task that is no operator's."""

    def call() -> object:
        if code is not None:
            code.install()
        return ray.cloudpickle.loads(work)()

    return _guarded(call)


def _rebuild(kind: str, message: str) -> GristmillError:
    cls = getattr(errors, kind, WorkerError)
    ours = isinstance(cls, type) and issubclass(cls, GristmillError)
    return cls(message) if ours else WorkerError(message)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing on standard error while Ray starts: its C++ side says how loud it is going to be."""
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Whoever calls us says what SIGTERM does; Ray would have it end the process by itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
