"""Compressed tars, unpacked once: a training reads pictures in any order, as a plain tar allows."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import zlib

from gristmill.errors import ShardError
from gristmill.pipelines.locate import unpack
from gristmill.pipelines.storage import Folder


def cache_folder() -> str:
    """Where unpacked tars lie; it may be deleted whenever no training runs."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "gristmill", "tars")


def unpacked_tar(folder: Folder, name: str) -> tuple[Folder, str]:
    """Folder and name of a plain tar with the content of this one: itself, if it is plain.

    Raises `ShardError` for one that ends too early, and `DiskFullError` where it does not fit.
    """
    with folder.open(name) as file:
        unpacked = unpack(file)
        if unpacked is None:
            return folder, name
        info = folder.fs.info(folder.join(name))
        modified = info.get("mtime") or info.get("ETag") or info.get("LastModified") or ""
        spoken = f"{folder.join_url(name)}\n{info.get('size')}\n{modified}"
        cache = Folder(cache_folder())
        own = hashlib.sha256(spoken.encode("utf-8", "surrogateescape")).hexdigest() + ".tar"
        if not cache.exists(own):
            try:
                with cache.output(own) as out:
                    shutil.copyfileobj(unpacked, out, 2**20)
            except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise ShardError(
                    f"{folder.url}/{name} is not a whole tar ({error}); fetch or write it again"
                ) from error
    return cache, own
