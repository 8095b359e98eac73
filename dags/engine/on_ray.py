"""The Ray runner: a Ray Data pipeline whose rows are part numbers; each operator is an actor pool.

Only this module imports ray. Rows of the dataset are handles, so nothing big ever crosses the
object store or the driver; Ray's streaming executor gives overlap, back-pressure, retries and
autoscaling. A worker that dies is replaced a finite number of times; what it had not committed is
done again.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

# Ray's C++ side writes to the terminal by itself; what matters reaches us as exceptions.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray
import ray.data
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gristmill import errors
from gristmill.dags.engine.cluster_address import cluster_address
from gristmill.dags.engine.on_local import Operator
from gristmill.dags.engine.on_ray_rows import listening
from gristmill.dags.engine.rows_done import RowsDone
from gristmill.dags.engine.stage_code import ShippedCode
from gristmill.errors import GristmillError, WorkerError
from gristmill.pipelines.stage import Needs

if TYPE_CHECKING:
    from gristmill.model.train_config import TrainConfig

# How often a lost worker is replaced, and how often a part is tried again because of that.
MAX_RESTARTS = 8
# The store carries part numbers only.
OBJECT_STORE_BYTES = 100 * 2**20


class RayRunner:
    """Runs on the cluster at `address` (or `RAY_ADDRESS`), or on a Ray started for this run."""

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        code: ShippedCode | None = None,
    ) -> None:
        self.address = cluster_address(address)
        # Workers for each operator at most; None: as many as the cluster has room for.
        self.workers = workers
        # Files of the user's that workers import; None: they have all they need.
        self.code = code
        self._started = False

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
            start = functools.partial(
                start, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES
            )
        try:
            with _silent_stderr():
                start()
        except ConnectionError as error:
            raise WorkerError(
                f"no Ray cluster answers at {self.address}: {error}; start one with "
                "'ray start --head' and give --address auto on one of its nodes, or leave out "
                "--address to run on this machine"
            ) from error
        # A start that takes too long is a bare Exception.
        except Exception as error:
            ray.shutdown()
            raise WorkerError(
                f"Ray did not start ({str(error).strip()}); on a machine that is busy give the "
                "same command again, or run in this process with --runner local"
            ) from error

    def __exit__(self, *error: object) -> None:
        if self._started:
            ray.shutdown()
            self._started = False

    def run(self, tasks: Sequence[int], operators: Sequence[Operator]) -> Iterator[int]:
        """Yield each task when all operators have done it, in the order of completion."""
        if not tasks:
            return
        _quiet()
        data: ray.data.Dataset = ray.data.from_items(
            [_Task(task=task, kind="", error="") for task in tasks], override_num_blocks=len(tasks)
        )
        resources: dict[str, float] = ray.cluster_resources()
        for operator in operators:
            data = self._add(data, operator, len(tasks), len(operators), resources)
        done: set[int] = set()
        try:
            for row in data.iter_rows():
                if row["error"]:
                    raise _rebuild(row["kind"], row["error"])
                done.add(row["task"])
                yield row["task"]
        except ray.exceptions.RayError as error:
            raise WorkerError(
                f"a worker was lost more than {MAX_RESTARTS} times: {str(error).strip()}; "
                "what is committed stays, the same command goes on"
            ) from error
        missing = sorted(set(tasks) - done)
        if missing:
            raise WorkerError(
                f"{len(missing)} parts did not come back, first {missing[0]}; run again"
            )

    def listening(self, hears: RowsDone) -> AbstractContextManager[RowsDone]:
        """What operators tell is gathered by an actor, and fetched twice a second."""
        return listening(hears)

    def everywhere(self, look: Callable[[], str]) -> list[str]:
        """What `look` says on each node with a core, by a task there that takes none of them."""
        task = ray.remote(num_cpus=0, max_retries=MAX_RESTARTS)(_look)
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
        try:
            return list(ray.get(asked))
        except ray.exceptions.RayError as error:
            raise WorkerError(f"no worker can be started: {str(error).strip()}") from error

    def _add(
        self,
        data: ray.data.Dataset,
        operator: Operator,
        tasks: int,
        operators: int,
        resources: dict[str, float],
    ) -> ray.data.Dataset:
        needs = operator.needs()
        # Every operator must fit beside the others, however small the cluster is.
        share = resources.get("CPU", 1.0) / operators
        cpus = min(needs.cpus, share)
        room = max(1, int(share / cpus)) if cpus else tasks
        if needs.gpus:
            gpus = resources.get("GPU", 0.0)
            if gpus < needs.gpus:
                raise WorkerError(
                    f"an operator needs {needs.gpus:g} GPUs and the cluster has {gpus:g}; "
                    "set the stage's gpus to 0 or connect to another cluster"
                )
            room = max(1, int(gpus / needs.gpus))
        most = max(1, min(tasks, room, self.workers or room))
        with warnings.catch_warnings():
            # Finite restarts can only be asked for in the way that Ray is about to replace.
            warnings.simplefilter("ignore", DeprecationWarning)
            return self._map(data, operator, needs, cpus, most)

    def _map(
        self, data: ray.data.Dataset, operator: Operator, needs: Needs, cpus: float, most: int
    ) -> ray.data.Dataset:
        parcel = Parcel(self.code, ray.cloudpickle.dumps(operator))
        if not operator.holds_worker:
            return data.map(
                functools.partial(_do_once, parcel),  # type: ignore[arg-type]
                compute=ray.data.TaskPoolStrategy(size=most),
                num_cpus=cpus,
                max_retries=MAX_RESTARTS,
            )
        return data.map(
            _Worker,  # type: ignore[arg-type]
            fn_constructor_args=(parcel,),
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=cpus,
            num_gpus=needs.gpus or None,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_RESTARTS,
        )


@dataclass(frozen=True)
class Parcel:
    """An operator on its way to a worker, with the code that it is made of: a worker must have that
    before it can unpickle the operator."""

    code: ShippedCode | None
    operator: bytes

    def open(self) -> Operator:
        """The operator, its code installed in this process."""
        if self.code is not None:
            self.code.install()
        operator: Operator = ray.cloudpickle.loads(self.operator)
        return operator


class _Task(TypedDict):
    """A row of the dataset: a part number, and how doing it failed; both empty if it did not."""

    task: int
    # Name of one of our exceptions, and its message.
    kind: str
    error: str


class _Worker:
    """One operator in one actor. Errors travel as data, so that the driver can name them."""

    def __init__(self, parcel: Parcel) -> None:
        self.operator = parcel.open()

    def __call__(self, row: _Task) -> _Task:
        return _do(self.operator, row)


def _do_once(parcel: Parcel, row: _Task) -> _Task:
    return _do(parcel.open(), row)


def _look(code: ShippedCode | None, look: bytes) -> str:
    """What a task does that only looks."""
    if code is not None:
        code.install()
    return str(ray.cloudpickle.loads(look)())


def _do(operator: Operator, row: _Task) -> _Task:
    if row["error"]:
        return row
    kind = message = ""
    try:
        operator(row["task"])
    except GristmillError as error:
        kind, message = type(error).__name__, str(error)
    except Exception as error:
        kind, message = "WorkerError", f"{error!r}\n{traceback.format_exc()}"
    return {"task": row["task"], "kind": kind, "error": message}


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


def _quiet() -> None:
    """Our own progress is shown; Ray's lines would tear it apart."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    with contextlib.suppress(AttributeError):
        context.print_on_execution_start = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def train_on_ray(config: TrainConfig, *, address: str, ranks: int) -> None:
    """Train on a cluster with Ray Train: `ranks` processes, each with a GPU if the cluster has any.

    `config` is a `TrainConfig`; its `out` must be a folder that every node reaches.
    """
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with RayRunner(None if address == "local" else address):
        gpus = ray.cluster_resources().get("GPU", 0) > 0
        trainer = TorchTrainer(
            _train_rank,
            train_loop_config=config.to_dict(),
            scaling_config=ScalingConfig(num_workers=ranks, use_gpu=gpus),
            run_config=RunConfig(storage_path=os.path.abspath(config.out), name="ray-train"),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise WorkerError(f"training on Ray failed: {error}") from error


def _train_rank(values: dict[str, object]) -> None:
    """One rank; Ray Train has made the process group."""
    from gristmill.model.train import train
    from gristmill.model.train_config import TrainConfig

    train(TrainConfig.from_dict(values))
