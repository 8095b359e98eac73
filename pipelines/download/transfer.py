"""Transfer: what every stage shares that fetches foreign bytes and opens them in children."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from gristmill.errors import ConfigurationError, WorkerError
from gristmill.pipelines.child import Child, ChildDied, ChildSilent
from gristmill.pipelines.download.fetch_policy import (
    Fetched,
    FetchLimits,
    FetchPolicy,
    is_transient,
)
from gristmill.pipelines.download.fetching import Fetching
from gristmill.pipelines.schema import (
    FAILED_TO_DECODE,
    FAILED_TO_DOWNLOAD,
    PENDING,
    POISONED,
    ColumnFacts,
    with_columns,
)
from gristmill.pipelines.sources.pointer import RETRYABLE, PointerError, read_pointers
from gristmill.pipelines.stage import Map, Needs, execution, fields_of, setting

# What TLS told of who sent the bytes; a column where that is not a matter of course.
TLS = pa.field("tls", pa.string())
TLS_FACTS = ColumnFacts(
    "Whether the certificate of who sent the bytes was `verified`, or `unverified`; null: no TLS."
)
# Finished results waiting to be written, and bytes waiting to be opened.
_WAITING_RESULTS = 64
_WAITING_BYTES = 256 * 2**20
# A decoder that raises over so many rows from the first on, always in one place, is broken.
_FIRST_ROWS = 16
# Children of this process that are free: configuration -> children.
_IDLE: dict[str, list[Child]] = {}


class Opened(Protocol):
    """What became of the bytes of a row."""

    @property
    def status(self) -> str:
        """`success`, or the kind of failure."""

    @property
    def error(self) -> str | None:
        """A short, countable reason."""


@dataclass(frozen=True, kw_only=True)
class FetchAndDecode(FetchLimits, Map):
    """Fetches http(s) URLs, or reads the pointers of rows that lie in their source, once for all
    rows that share an image, and has a supervised child open what came.

    Every limit is a field. What crashes, hangs or fills the child ends as `poisoned`, alone.
    """

    # For opening what one transfer brought.
    decode_deadline_s: float = setting(20.0, unit="s", low=0)
    # What opening it may take.
    decode_memory_gb: float = setting(2.0, unit="GiB", low=0)
    # Processes that open; 0: as many as this process has cores, or OMP_NUM_THREADS, which Ray sets
    # to a worker's share of them.
    decoders: int = execution(0, low=0)

    def reads(self) -> tuple[str, ...]:
        """The columns of a row."""
        return ("uid", "image_id", "url", "pointer", "status")

    def needs(self) -> Needs:
        """Little of a core: it waits most of the time, at the end of a part for the slowest hosts.
        Several workers on a core fill that time with other parts."""
        return Needs(cpus=0.5, memory_gb=2.0)

    def is_retryable(self, status: str, error: str) -> bool:
        """Whether a failed row may succeed on another day."""
        return status == FAILED_TO_DOWNLOAD and (is_transient(error) or error in RETRYABLE)

    def is_paced(self) -> bool:
        """Whether hosts are asked at a pace that all workers share: see `pace.Paced`."""
        return self.per_host_rate > 0 or self.opt_out == "robots"

    def notes(self) -> list[str]:
        """What a person should know."""
        if self.verify_tls:
            return []
        return [
            "TLS is not verified (verify_tls=false): who sent what over a connection whose "
            "certificate does not verify is not known; the column tls says unverified of such rows"
        ]

    def check(self) -> None:
        """Validate the limits."""
        for name in ("timeout_s", "max_bytes", "connections", "per_host"):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be above 0")

    # -- what a stage says of itself ------------------------------------------------------------

    def make_worker(self) -> Callable[[], object]:
        """Factory of what opens bytes, run in each child; its `process(data, extra)` returns an
        `Opened`."""
        raise NotImplementedError

    def open_here(self, data: bytes) -> Opened | None:
        """What becomes of bytes that need no decoder, and so no child; None: one opens them."""
        return None

    def failure(self, status: str, error: str) -> Opened:
        """What stands for bytes that could not be had or opened."""
        raise NotImplementedError

    def refusal(self, url: str) -> str | None:
        """Why an address is not even asked for, a countable reason; None for most."""
        return None

    def extra(self, metas: list[str | None]) -> object:
        """What the child is told of the rows of one image beside the bytes. Raises `ValueError`,
        with a countable reason, where they lack what they need."""
        return None

    def columns_of(self, opened: Opened) -> dict[str, object]:
        """Values of `writes()`, less status, error, sha256, received_bytes and tls."""
        raise NotImplementedError

    # -- the work -------------------------------------------------------------------------------

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield rows as they are done; rows of one image come together."""
        groups: dict[str, list[int]] = {}
        settled: list[int] = []
        statuses = table["status"].to_pylist()
        for i, image_id in enumerate(table["image_id"].to_pylist()):
            if statuses[i] == PENDING:
                groups.setdefault(image_id, []).append(i)
            else:
                settled.append(i)
        if settled:
            yield self._as_they_came(table.take(pa.array(settled, pa.int64())))
        if not groups:
            return
        for rows, opened, fetched in self._results(table, list(groups.values())):
            yield self._finish(table.take(pa.array(rows, pa.int64())), opened, fetched)

    def _results(
        self, table: pa.Table, groups: list[list[int]]
    ) -> Iterator[tuple[list[int], Opened, Fetched]]:
        """(rows, what became of them, what was received) of each image, from a thread with its own
        event loop; no rows are a sign of life."""
        results: queue.Queue[Any] = queue.Queue(_WAITING_RESULTS)
        stop = threading.Event()
        work = _Work(self, table, groups, results, stop)
        thread = threading.Thread(target=work.run, daemon=True)
        thread.start()
        try:
            while (item := results.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            while thread.is_alive():
                with contextlib.suppress(queue.Empty):
                    results.get_nowait()
                thread.join(0.02)

    def policy(self) -> FetchPolicy:
        """The bounds of the HTTP client."""
        return FetchPolicy(**fields_of(self, FetchLimits))

    def _as_they_came(self, rows: pa.Table) -> pa.Table:
        """Rows that had failed before."""
        for field in self.writes():
            if field.name not in rows.column_names:
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
        return rows

    def with_tls(self, schema: pa.Schema) -> pa.Schema:
        """`writes()` of a stage, with what TLS told where that is asked."""
        return schema if self.verify_tls else schema.append(TLS)

    def _finish(self, rows: pa.Table, opened: Opened, fetched: Fetched) -> pa.Table:
        """Rows of one image with what became of it."""
        data = fetched.data
        values = {
            "status": opened.status,
            "error": opened.error,
            "sha256": hashlib.sha256(data).hexdigest() if data else None,
            "received_bytes": len(data) if data else None,
            TLS.name: fetched.tls,
            **self.columns_of(opened),
        }
        # In the order of the schema, so that all tables of a part have one.
        schema = self.writes()
        columns = {name: [values[name]] * len(rows) for name in schema.names}
        return with_columns(rows, columns, schema)


def cores() -> int:
    """What this process may use."""
    own = os.environ.get("OMP_NUM_THREADS", "")
    here = len(os.sched_getaffinity(0))
    return min(int(own), here) if own.isdigit() and int(own) else here


class _Work:
    """Fetches and opens all images of a table inside one thread's event loop."""

    def __init__(
        self,
        stage: FetchAndDecode,
        table: pa.Table,
        groups: list[list[int]],
        results: queue.Queue[Any],
        stop: threading.Event,
    ) -> None:
        self.stage, self.groups, self.results, self.stop = stage, groups, results, stop
        self.urls = table["url"].to_pylist()
        self.pointers = table["pointer"].to_pylist()
        self.meta = table["meta"].to_pylist() if "meta" in table.column_names else []
        count = stage.decoders or cores()
        self.children: queue.SimpleQueue[Child] = queue.SimpleQueue()
        # Children outlive one part: starting them anew would cost half a second each.
        self.idle = _IDLE.setdefault(repr(stage), [])
        for _ in range(count):
            try:
                child = self.idle.pop()
            except IndexError:
                child = Child(stage.make_worker(), memory_gb=stage.decode_memory_gb)
            self.children.put(child)
        self.pool = ThreadPoolExecutor(count)
        self.count = count
        self.waiting_bytes = 0
        # Whether the bytes of some row were opened, and where the decoder raised over others.
        self.sound = False
        self.raised: list[str] = []

    def run(self) -> None:
        """The thread's whole life."""
        try:
            asyncio.run(self._all())
            self._put(None)
        except BaseException as error:
            self._put(error)
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)
            for _ in range(self.count):
                self.idle.append(self.children.get())

    def _put(self, item: Any) -> None:
        """Hand over a result; a reader that has gone is not waited for."""
        while not self.stop.is_set():
            try:
                self.results.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    async def _all(self) -> None:
        here = [rows for rows in self.groups if self.urls[rows[0]] is None or self._local(rows)]
        local = {id(rows) for rows in here}
        away = [rows for rows in self.groups if id(rows) not in local]
        if here:
            await self._read_local(here)
        refused = {id(rows): self.stage.refusal(self.urls[rows[0]]) for rows in away}
        for rows in away:
            if why := refused[id(rows)]:
                await self._fetched(rows, Fetched(None, why))
        away = [rows for rows in away if not refused[id(rows)]]
        if away:
            urls = [self.urls[rows[0]] for rows in away]
            policy = self.stage.policy()
            fetching = Fetching(policy, self.stop, self._fetched, self._room, self._sign)
            await fetching.run(list(zip(away, urls, strict=True)))

    async def _room(self) -> None:
        """Wait until what came has been opened."""
        while self.waiting_bytes > _WAITING_BYTES:
            await asyncio.sleep(0.01)

    async def _sign(self) -> None:
        """A sign of life."""
        nothing = self.stage.failure(FAILED_TO_DOWNLOAD, "")
        await asyncio.to_thread(self._put, ([], nothing, Fetched(None)))

    async def _fetched(self, rows: list[int], fetched: Fetched) -> None:
        if fetched.data is None:
            failed = self.stage.failure(FAILED_TO_DOWNLOAD, fetched.error or "")
            await asyncio.to_thread(self._put, (rows, failed, fetched))
        else:
            await self._open(rows, fetched)

    def _local(self, rows: list[int]) -> bool:
        return self.pointers[rows[0]] is not None

    async def _read_local(self, groups: list[list[int]]) -> None:
        """Rows whose bytes lie in their source, read in the order that is cheap."""
        pointers = [self.pointers[rows[0]] or "" for rows in groups]
        reader = read_pointers(pointers, self.stage.max_bytes)
        running: set[asyncio.Task[None]] = set()
        while not self.stop.is_set():
            item = await asyncio.to_thread(next, reader, None)
            if item is None:
                break
            index, data = item
            if isinstance(data, PointerError):
                failed = self.stage.failure(FAILED_TO_DOWNLOAD, str(data))
                await asyncio.to_thread(self._put, (groups[index], failed, Fetched(None)))
                continue
            running.add(asyncio.create_task(self._open(groups[index], Fetched(data))))
            if len(running) > 2 * self.count:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        for task in running:
            await task

    async def _open(self, rows: list[int], fetched: Fetched) -> None:
        loop = asyncio.get_running_loop()
        size = len(fetched.data or b"")
        self.waiting_bytes += size
        try:
            await loop.run_in_executor(self.pool, self._open_and_put, rows, fetched)
        finally:
            self.waiting_bytes -= size

    def _open_and_put(self, rows: list[int], fetched: Fetched) -> None:
        data = fetched.data or b""
        try:
            extra = self.stage.extra([self.meta[row] for row in rows] if self.meta else [])
        except ValueError as error:
            self._put((rows, self.stage.failure(FAILED_TO_DECODE, str(error)), fetched))
            return
        here = self.stage.open_here(data)
        if here is not None:
            self._put((rows, here, fetched))
            return
        child = self.children.get()
        try:
            opened = self._supervised(child, data, extra)
        finally:
            self.children.put(child)
        self._put((rows, opened, fetched))

    def _supervised(self, child: Child, data: bytes, extra: object) -> Opened:
        """Open in a child. A child that dies gets one more try: it may have been killed by
        chance."""
        for attempt in range(2):
            try:
                child.start()
                return self._opened(child, data, extra)
            except ChildDied:
                if attempt == 1:
                    return self.stage.failure(POISONED, "decoder crashed")
            except ChildSilent:
                return self.stage.failure(POISONED, "decoder hung")
        raise AssertionError("the second try returns")

    def _opened(self, child: Child, data: bytes, extra: object) -> Opened:
        """What the decoder makes of bytes. What it raises is a verdict on their row, unless it does
        so from the first row on, each time in one place: that says nothing of rows."""
        try:
            opened: Opened = child.call(
                "process", data, extra, deadline_s=self.stage.decode_deadline_s
            )
            self.sound = True
            return opened
        except WorkerError as error:
            lines = str(error).strip().splitlines()
            places = [line for line in lines if line.lstrip().startswith("File ")]
            self.raised.append(places[-1] if places else "")
            if not self.sound and len(self.raised) >= _FIRST_ROWS and len(set(self.raised)) == 1:
                raise
            kind = lines[-1].partition(":")[0].rpartition(".")[2]
            return self.stage.failure(POISONED, f"decoder raised {kind}")
