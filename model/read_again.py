"""Reading that outlasts a moment without storage: what fails is tried again, then stops the work;
it is never taken for a fault of the sample."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from gristmill.errors import ShardError, StorageError

_T = TypeVar("_T")
# Attempts, and the wait after the first that fails; it doubles.
_ATTEMPTS = 5
_WAIT_S = 0.2


def read_again(read: Callable[[], _T], what: str) -> _T:
    """What `read` gives. Raises `StorageError` if it fails again and again, `ShardError` if
    `what`, a file, is gone."""
    for attempt in range(_ATTEMPTS):
        try:
            return read()
        except FileNotFoundError:
            raise ShardError(f"{what} is gone; put it back, then give the same command") from None
        except (OSError, StorageError) as error:
            if attempt + 1 == _ATTEMPTS:
                raise StorageError(
                    f"{what} cannot be read ({type(error).__name__}: {error}); the last "
                    "checkpoint stays: give the same command again when the storage is back"
                ) from error
        time.sleep(_WAIT_S * 2**attempt)
    raise AssertionError("unreachable")
