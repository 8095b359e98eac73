"""Storage that fails for a moment is asked again, and storage that hangs is not waited for.

What a disk, a share or a store refuses now it often gives a second later. So every read and write
of ours is tried again with back-off for `GRISTMILL_STORAGE_PATIENCE` seconds (30), and one that
says nothing for twice as long counts as failed. What fails then says something about the storage,
and never about rows.
"""

from __future__ import annotations

import errno
import gzip
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar, cast

from gristmill.pipelines.hub import is_final

_Found = TypeVar("_Found")

PATIENCE = "GRISTMILL_STORAGE_PATIENCE"
_PATIENCE_S = 30.0
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 5.0
# However long each try took: one that hung is no proof that the next will.
_FEWEST_TRIES = 3
# Of bytes that are not what they should be: a second and a half.
_TRIES_OF_WRONG_BYTES = 6
# What goes through the slowest storage that is worth waiting for.
_SLOWEST_BYTES_S = 2**20
# Libraries whose exceptions mean that a store was not reached, or would not answer.
STORES = frozenset(
    {
        "botocore",
        "aiobotocore",
        "aiohttp",
        "gcsfs",
        "google",
        "requests",
        "urllib3",
        "httpx",
        "httpx2",
        "huggingface_hub",
        "adlfs",
        "azure",
        "asyncio",
        "fsspec",
    }
)
_DECODERS = frozenset({"av", "PIL"})
# Answers that stay what they are: no room, no right, another kind of thing, no such name.
_FINAL = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOENT,
        errno.EEXIST,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENOTEMPTY,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EINVAL,
    }
)
_FINAL_KINDS = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)


class WrongBytesError(OSError):
    """Fewer bytes came than were asked for, others than were written, or none: no such file. A
    store that is in trouble says so too, but mostly it is the truth: tried a few times only."""


class SilentStorageError(TimeoutError):
    """Nothing came for so long that nothing will."""


def patience_s() -> float:
    """Seconds for which storage is tried again."""
    try:
        return max(0.0, float(os.environ.get(PATIENCE, _PATIENCE_S)))
    except ValueError:
        return _PATIENCE_S


def is_of_storage(error: BaseException) -> bool:
    """Whether it went wrong between us and the storage. Decoders have an OSError of their own."""
    room = (type(error).__module__ or "").partition(".")[0]
    return room in STORES or (isinstance(error, OSError) and room not in _DECODERS)


def is_of_content(error: OSError) -> bool:
    """Whether unpackers and Arrow say it of bytes that are not theirs: what a storage says has a
    number, or is an error of its library's own."""
    return error.errno is None and type(error) in (OSError, gzip.BadGzipFile)


def may_heal(error: BaseException) -> bool:
    """Whether the same request may well be answered in a moment."""
    if not is_of_storage(error) or isinstance(error, _FINAL_KINDS) or is_final(error):
        return False
    return not (isinstance(error, OSError) and error.errno in _FINAL)


def waits() -> Callable[[BaseException], bool]:
    """A function that waits before the next try after an error, longer each time; False when
    patience is at its end."""
    begun, tries, wait = time.monotonic(), 1, _FIRST_WAIT_S

    def next_try(error: BaseException) -> bool:
        nonlocal tries, wait
        left = patience_s() - (time.monotonic() - begun)
        if isinstance(error, WrongBytesError) and tries >= _TRIES_OF_WRONG_BYTES:
            return False
        if left <= 0 and tries >= _FEWEST_TRIES:
            return False
        # Workers that were refused together do not come back together.
        time.sleep(max(min(wait * random.uniform(0.5, 1.5), left), 0.0))
        tries, wait = tries + 1, min(2 * wait, _LONGEST_WAIT_S)
        return True

    return next_try


def patiently(work: Callable[[], _Found], *, size: int = 0) -> _Found:
    """What `work` returns, tried again while its exception may heal; the last one is raised.
    `size`: bytes that it moves, for which it may take longer."""
    again = waits()
    while True:
        try:
            return heard(work, 2 * patience_s() + size / _SLOWEST_BYTES_S)
        except Exception as error:
            if not may_heal(error) or not again(error):
                raise


def heard(work: Callable[[], _Found], seconds: float) -> _Found:
    """What `work` returns, or `SilentStorageError` if it takes longer. A read that hangs in the
    kernel cannot be ended: its thread is left to itself."""
    helper: _Helper | None = getattr(_mine, "helper", None)
    if helper is None or helper.pid != os.getpid():
        helper = _mine.helper = _Helper()
    helper.asked.put(work)
    try:
        found, failure = helper.answers.get(timeout=max(seconds, 1.0))
    except BaseException as error:
        # Its answer may come yet, when nobody listens: the next question goes to another.
        _mine.helper = None
        if isinstance(error, queue.Empty):
            raise SilentStorageError(f"no answer for {max(seconds, 1.0):.0f} s") from None
        raise
    if failure is not None:
        raise failure
    return cast(_Found, found)


_Asked = queue.SimpleQueue[Callable[[], object] | None]
_Answers = queue.SimpleQueue[tuple[object, BaseException | None]]


class _Helper:
    """A thread that asks for another one, question after question; it ends with this object."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.asked, self.answers = _Asked(), _Answers()
        serve = threading.Thread(
            target=_serve, args=(self.asked, self.answers), daemon=True, name="storage"
        )
        serve.start()

    def __del__(self) -> None:
        self.asked.put(None)


def _serve(asked: _Asked, answers: _Answers) -> None:
    while (work := asked.get()) is not None:
        try:
            answers.put((work(), None))
        except BaseException as error:
            answers.put((None, error))
        # Nothing that it held is held any longer.
        del work


_mine = threading.local()
