"""A folder to write into: one that is there must be ours, or its owner's files would be lost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection

from gristmill.errors import ConfigurationError
from gristmill.pipelines.storage import Folder


def require_own(url: str, *, what: str, marks: Collection[str], beside: Collection[str]) -> None:
    """Raise `ConfigurationError` unless `url` is missing, empty, or holds one of `marks`; nothing
    is written.

    `beside`: names that may lie there before the first mark does; hidden files may always. `what`:
    what the folder is to hold, for the message.
    """
    folder = Folder(url)
    path = folder.local_path()
    if path is not None:
        _require_folder(path, url, what)
    names = folder.names()
    if set(names) & set(marks):
        return
    strange = [name for name in names if name not in beside and not name.startswith(".")]
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise ConfigurationError(
            f"{url} is not empty and holds no {what}: {', '.join(strange[:3])}{more}; nothing was "
            "written: give another --out, such as a new folder below it"
        )


def require_writable(url: str, *, what: str) -> None:
    """Make a local folder, and raise `ConfigurationError` if nothing can be written there."""
    path = Folder(url).local_path()
    if path is None:
        return
    _require_folder(path, url, what)
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigurationError(
            f"{url} cannot be written ({error.strerror}); give another --out"
        ) from None


def require_file_place(path: str) -> None:
    """Raise `ConfigurationError` if `path` cannot be written as a file, before the work for it."""
    if os.path.isdir(path):
        raise ConfigurationError(f"{path} is a folder; give --out the name of a file")
    require_writable(os.path.dirname(os.path.abspath(path)), what="file")


def _require_folder(path: str, url: str, what: str) -> None:
    """Nothing on the way to a local folder may be a file."""
    there = path
    while not os.path.lexists(there):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        raise ConfigurationError(
            f"{url}: {there} is a file, and a {what} is a folder; give another --out"
        )
