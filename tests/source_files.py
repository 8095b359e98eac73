"""Sources as people have them, and how tests read them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa

from gristmill.pipelines.schema import ROW
from gristmill.pipelines.sources.pointer import PointerError, read_pointers
from gristmill.pipelines.sources.source import Source


def jpeg(seed: int = 0) -> bytes:
    """A small picture, another for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def read(path: Any, **fields: Any) -> list[dict[str, Any]]:
    """All rows of a source, the contract checked on the way."""
    source = Source(path=str(path), **fields)
    source.check()
    assert source.manifest() == source.manifest() and source.manifest()
    tables = [table for chunk in source.chunks() for table in source.read(chunk)]
    for table in tables:
        assert table.schema == ROW and 0 < len(table) <= 10_000
        assert not any(pa.types.is_null(field.type) for field in table.schema)
    again = [table for chunk in source.chunks() for table in source.read(chunk)]
    assert all(a.equals(b) for a, b in zip(tables, again, strict=True))
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist() if tables else []
    return rows


def bytes_of(rows: list[dict[str, Any]]) -> list[bytes | str]:
    """What the pointers of rows lead to, or why nowhere."""
    pointers = [row["pointer"] for row in rows]
    found = dict(read_pointers(pointers, 10**7))
    return [str(x) if isinstance(x, PointerError) else x for _, x in sorted(found.items())]


def write_tar(path: Path, members: Iterable[tuple[str, bytes | str]], mode: str = "w") -> Path:
    """A tar of (name, bytes); a text in place of bytes makes a hard link to that member."""
    with tarfile.open(path, mode) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.LNKTYPE, data
                file.addfile(info)
            else:
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return path
