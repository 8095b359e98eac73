"""Storage that fails for a moment is asked again; what is final is final; silence ends."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import av.error
import PIL
import pytest

from gristmill.pipelines.patience import (
    PATIENCE,
    SilentStorageError,
    WrongBytesError,
    heard,
    is_of_storage,
    may_heal,
    patiently,
)


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "here"

    return work, calls


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EIO, "io"), ConnectionResetError(), TimeoutError(), WrongBytesError("short")],
)
def test_what_may_heal_is_tried_again(error: Exception) -> None:
    work, calls = failing(2, error)
    assert patiently(work) == "here" and len(calls) == 3


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError(), PermissionError(), OSError(errno.ENOSPC, "full"), ValueError()],
)
def test_what_is_final_is_not(error: Exception) -> None:
    work, calls = failing(9, error)
    with pytest.raises(type(error)):
        patiently(work)
    assert len(calls) == 1


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    work, calls = failing(99, OSError(errno.EIO, "io"))
    with pytest.raises(OSError, match="io"):
        patiently(work)
    assert len(calls) == 3


def test_silence_ends_and_the_next_question_has_its_own_answer() -> None:
    stop = threading.Event()
    with pytest.raises(SilentStorageError, match="no answer for 1 s"):
        heard(stop.wait, 1.0)
    stop.set()
    assert heard(lambda: "mine", 1.0) == "mine"


def test_exceptions_of_decoders_are_not_those_of_storage() -> None:
    assert not is_of_storage(PIL.UnidentifiedImageError())
    assert not may_heal(av.error.InvalidDataError(1, "x"))
    assert is_of_storage(OSError(errno.EIO, "io"))
