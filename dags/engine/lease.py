"""A lock on an object store: a lease that its holder renews.

It is written by conditional puts alone, so that of two that write at once one is refused. Whoever
finds a lease watches it for its term: one that is renewed has a living holder; one that is not is
taken over. The watcher's own clock measures that, and no time of one machine is compared with one
of another. A holder that could not renew in time (it slept, the store was out of reach) asks the
store whether it is the holder still before it goes on.

As in Gray and Cheriton, "Leases" (SOSP 1989), with versions of an object in the place of times.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from gristmill.errors import ConfigurationError, RunLockedError, StorageError
from gristmill.pipelines.conditional_put import ConditionalObject
from gristmill.pipelines.storage import Folder

TERM = "GRISTMILL_LEASE_SECONDS"
_TERM_S = 60.0
# Shares of a term: between two renewals, between two looks at another's lease, and after which a
# holder that was not heard asks before it goes on.
_RENEWALS, _LOOKS, _DOUBT = 1 / 6, 1 / 12, 1 / 2
# Seconds since the machine was started, those in which it slept among them.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


# Of leases of this process that ended and could not say so, because storage was away.
_ended: set[str] = set()


def term_s() -> float:
    """Seconds for which a lease is watched before it is taken over."""
    text = os.environ.get(TERM, "")
    try:
        seconds = float(text) if text else _TERM_S
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(f"{TERM}={text!r}; give seconds above 0")
    return seconds


@dataclass(frozen=True, kw_only=True)
class Holder:
    """What lies in `run.lock`: who writes into the run."""

    host: str = ""
    pid: int = 0
    # UTC, ISO 8601; for a person, never compared.
    since: str = ""
    # Of a lease: whose it is, how long it holds unless renewed, which renewal this is.
    token: str = ""
    term_s: float = 0.0
    renewal: int = 0
    # The holder is done.
    released: bool = False

    @staticmethod
    def here() -> Holder:
        """This process, from now on."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return Holder(host=os.uname().nodename, pid=os.getpid(), since=now)

    @staticmethod
    def parse(data: bytes) -> Holder:
        """What a lock says; nobody, where it says nothing that we know (one of another version)."""
        try:
            return Holder(**json.loads(data))
        except (ValueError, TypeError):
            return Holder()

    def stored(self) -> bytes:
        """As it lies in the lock."""
        return (json.dumps(asdict(self)) + "\n").encode()

    def __str__(self) -> str:
        if not self.host:
            return "a process that does not say who it is"
        return f"process {self.pid} on {self.host} since {self.since}"


def written_by(folder: Folder, holder: Holder) -> RunLockedError:
    """What is said to a second writer."""
    return RunLockedError(
        f"{folder.url} is being written by {holder}; wait for it, or stop it and run again"
    )


@dataclass
class _Sight:
    """Another's lease, since when it is watched."""

    tag: str
    since: float = field(default_factory=lambda: time.clock_gettime(_CLOCK))


class Lease:
    """The lease of a run, held while the block lasts and renewed by a thread."""

    def __init__(
        self, folder: Folder, store: ConditionalObject, tell: Callable[[str], None]
    ) -> None:
        self._folder, self._store, self._tell = folder, store, tell
        self._term = term_s()
        self._mine = replace(Holder.here(), token=uuid.uuid4().hex, term_s=self._term)
        # Of our last version: its tag, and when it was sent. None: we hold nothing.
        self._tag: str | None = None
        self._sent = 0.0
        self._asked = False
        # Who has it instead of us.
        self._lost_to: Holder | None = None
        self._writing = threading.Lock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True, name="lease")

    def __enter__(self) -> Lease:
        try:
            self._take()
            self._try_store()
            self._thread.start()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        try:
            self._thread.join()
        finally:
            self._release()

    def check(self) -> None:
        """Raise `RunLockedError` if somebody else took the run over; ask the store first, if we
        were not heard for a while."""
        if self._in_doubt():
            with self._writing:
                if self._in_doubt():
                    self._renew(lambda data, tag: self._store.put(data, over=tag))
        if self._lost_to is not None:
            raise RunLockedError(
                f"{self._folder.url} was taken over by {self._lost_to}: the lock of this process "
                f"was not renewed for {self._term:g} s; what is committed stays, and the same "
                "command goes on when the other is done"
            )

    def _in_doubt(self) -> bool:
        return self._lost_to is None and _now() - self._sent > self._term * _DOUBT

    def _take(self) -> None:
        """Write the lease where there is none, over one that was released, or over one that was
        watched for its term and did not change. Raises `RunLockedError`."""
        seen: _Sight | None = None
        while True:
            over, there = None, self._store.read()
            if there is not None:
                over, holder = there[1], Holder.parse(there[0])
                if holder.token in _ended:
                    # Nobody else can know, and need not be watched for.
                    holder = replace(holder, released=True)
                if holder.token == self._mine.token:
                    # A put of ours whose answer was lost.
                    self._tag = over
                    return
                if seen is not None and seen.tag != over and not holder.released:
                    raise written_by(self._folder, holder)
                term = max(self._term, holder.term_s)
                if not holder.released and (seen is None or _now() - seen.since < term):
                    if seen is None:
                        self._tell(
                            f"{self._folder.url} is locked by {holder}; watching for up to "
                            f"{term:g} s whether that process is alive"
                        )
                        seen = _Sight(over)
                    self._done.wait(self._term * _LOOKS)
                    continue
            self._asked, self._sent = True, _now()
            try:
                self._tag = self._store.put(self._mine.stored(), over=over)
            except NotImplementedError:
                raise no_lock_there(self._folder) from None
            if self._tag is not None:
                return
            self._done.wait(self._term * _LOOKS)

    def _try_store(self) -> None:
        """Raise `ConfigurationError` for a store that writes whatever the condition says."""
        if not self._store.keeps_conditions(replace(self._mine, renewal=-1).stored()):
            self._asked = False
            self._tag = None
            self._folder.remove("run.lock")
            raise no_lock_there(self._folder)

    def _keep_renewing(self) -> None:
        while not self._done.wait(self._term * _RENEWALS):
            # Storage that fails is asked again at the next turn, and by `check`.
            with self._writing, contextlib.suppress(StorageError):
                self._renew(
                    lambda data, tag: self._store.put_once(
                        data, over=tag, within_s=self._term * _DOUBT
                    )
                )
            if self._lost_to is not None:
                return

    def _renew(self, put: Callable[[bytes, str], str | None]) -> None:
        """Write the next version over ours, or find out who took it."""
        assert self._tag is not None
        while True:
            self._mine = replace(self._mine, renewal=self._mine.renewal + 1)
            sent = _now()
            tag = put(self._mine.stored(), self._tag)
            if tag is not None:
                self._tag, self._sent = tag, sent
                return
            there = self._store.read()
            holder = Holder() if there is None else Holder.parse(there[0])
            if there is None or holder.token != self._mine.token:
                self._lost_to = holder
                return
            # A put of ours whose answer was lost: this one, or one before it.
            self._tag = there[1]
            if holder.renewal == self._mine.renewal:
                self._sent = sent
                return

    def _release(self) -> None:
        """Say that we are done, if it is ours still. Storage that is away keeps the lease, which
        ends by itself."""
        _ended.add(self._mine.token)
        with self._writing, contextlib.suppress(StorageError):
            if self._tag is None and self._asked:
                # Stopped between a put and its answer.
                there = self._store.read()
                if there is not None and Holder.parse(there[0]).token == self._mine.token:
                    self._tag = there[1]
            if self._tag is not None and self._lost_to is None:
                self._mine = replace(self._mine, released=True)
                self._renew(lambda data, tag: self._store.put(data, over=tag))


def no_lock_there(folder: Folder) -> ConfigurationError:
    """What is said of a store that has no conditional put."""
    return ConfigurationError(
        f"{folder.url}: this store has no conditional put, so a lock cannot be kept there; give "
        "--no-lock, and never run two commands that write there at once"
    )


def _now() -> float:
    return time.clock_gettime(_CLOCK)
