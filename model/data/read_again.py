"""Reading that outlasts a moment without storage: what fails is tried again, then stops the work;
it is never taken for a fault of the sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gristmill.errors import ShardError, StorageError
from gristmill.pipelines.patience import patiently

_T = TypeVar("_T")


def read_again(read: Callable[[], _T], what: str, *, size: int = 0) -> _T:
    """What `read` gives; `size`: bytes that it may read, for which it may take longer. Raises
    `StorageError` if it fails again and again, `ShardError` if `what`, a file, is gone."""
    try:
        return patiently(read, size=size)
    except FileNotFoundError:
        raise ShardError(f"{what} is gone; put it back, then give the same command") from None
    except (OSError, StorageError) as error:
        raise StorageError(
            f"{what} cannot be read ({type(error).__name__}: {error}); the last checkpoint stays: "
            "give the same command again when the storage is back"
        ) from error
