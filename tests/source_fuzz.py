"""Sources with seeded damage, and what must hold of whatever a reader makes of them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from source_files import jpeg, write_tar

from gristmill.errors import GristmillError
from gristmill.pipelines.schema import PENDING, ROW
from gristmill.pipelines.sources.pointer import PointerError, read_pointers
from gristmill.pipelines.sources.source import Source

ROWS = 40
# Of one file; a read takes some hundredths.
DEADLINE_S = 20
PICTURES = [jpeg(i) for i in range(4)]


def _rows() -> list[tuple[str, str]]:
    return [(f"http://h/{i:04d}", f"words of {i:04d}, and more") for i in range(ROWS)]


def _csv(mark: str) -> bytes:
    lines = ["url,caption".replace(",", mark)]
    for url, caption in _rows():
        lines.append(f'{url}{mark}"{caption}"' if mark == "," else f"{url}{mark}{caption}")
    return "\n".join(lines).encode() + b"\n"


def _json_lines() -> bytes:
    lines = [json.dumps({"url": url, "caption": caption, "n": 1}) for url, caption in _rows()]
    return "\n".join(lines).encode() + b"\n"


def _parquet(column: str) -> bytes:
    urls, captions = zip(*_rows(), strict=True)
    columns: dict[str, list[object]] = {"url": list(urls), "caption": list(captions)}
    if column == "image":
        columns["image"] = [{"bytes": PICTURES[i % 4], "path": None} for i in range(ROWS)]
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=10, use_dictionary=False)
    return file.getvalue()


def _tar(folder: Path) -> bytes:
    members: list[tuple[str, bytes | str]] = []
    for i, (url, caption) in enumerate(_rows()):
        facts = json.dumps({"url": url, "width": 8}).encode()
        members += [(f"{i:04d}.jpg", PICTURES[i % 4]), (f"{i:04d}.json", facts)]
        members.append((f"{i:04d}.txt", caption.encode()))
    return write_tar(folder / "made.tar", members).read_bytes()


def _coco() -> bytes:
    urls = [url for url, _ in _rows()]
    images = [{"id": i, "file_name": f"{i}.jpg", "coco_url": url} for i, url in enumerate(urls)]
    captions = [{"id": i, "image_id": i, "caption": c} for i, (_, c) in enumerate(_rows())]
    return json.dumps({"images": images, "annotations": captions}).encode()


MAKERS: dict[str, Callable[[Path], bytes]] = {
    "a.csv": lambda folder: _csv(","),
    "a.tsv": lambda folder: _csv("\t"),
    "a.jsonl": lambda folder: _json_lines(),
    "a.jsonl.gz": lambda folder: gzip.compress(_json_lines(), mtime=0),
    "a.parquet": lambda folder: _parquet("url"),
    "hf.parquet": lambda folder: _parquet("image"),
    "a.tar": _tar,
    "a.tar.gz": lambda folder: gzip.compress(_tar(folder), mtime=0),
    "a.json": lambda folder: _coco(),
}
# What breaks texts, beside any bytes.
_MARKS = [b'"', b",", b"\n", b"\r", b"\t", b"\\", b"{", b"]", b"\0", b"\xff\xfe", b"\xef\xbb\xbf",
          b"null", b"1e999", b"http://h/0007", b'""', b"  ", b"\xc3", b"-1"]  # fmt: skip


def damage(data: bytes, rng: random.Random, times: int) -> bytes:
    """Some bytes flipped, cut out, doubled, put in or moved; sometimes the end is missing."""
    changed = bytearray(data)
    for _ in range(times):
        at = rng.randrange(len(changed) + 1)
        end = min(len(changed), at + int(rng.paretovariate(0.7)))
        kind = rng.randrange(7)
        if kind == 0:
            for place in range(at, end):
                changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at:end]
        elif kind == 2:
            changed[at:at] = changed[at:end]
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 4:
            piece = bytes(changed[at:end])
            del changed[at:end]
            other = rng.randrange(len(changed) + 1)
            changed[other:other] = piece
        elif kind == 5 or rng.random() < 0.8:
            changed[at:at] = rng.choice(_MARKS)
        else:
            del changed[at:]
    return bytes(changed)


def fuzz(seed: int, folder: Path) -> str:
    """Read one damaged file; returns what became of it.

    Raises `AssertionError` for a row that is not as it must be, `TimeoutError` for a hang, and
    whatever a reader lets through that is no error of ours.
    """
    rng = random.Random(seed)
    name = list(MAKERS)[seed % len(MAKERS)]
    times = rng.choice([1, 1, 2, 5])
    data = damage(MAKERS[name](folder), rng, times)
    path = folder / name
    path.write_bytes(data)
    with _deadline():
        try:
            rows = _read(Source(path=str(path)))
        except GristmillError as error:
            assert str(path) in str(error), f"an error that does not name the file: {error}"
            return f"{name}: refused"
    _check_rows(rows, times)
    _check_counts(name, path, data, rows)
    failed = sum(row["error"] is not None for row in rows)
    return f"{name}: {'some rows failed' if failed else 'read'}"


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"not read within {DEADLINE_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(DEADLINE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _read(source: Source) -> list[dict[str, Any]]:
    source.check()
    source.manifest()
    source.notes()
    source.estimate_rows()
    source.check_columns()
    rows = []
    for chunk in source.chunks():
        for table in source.read(chunk):
            assert table.schema == ROW
            rows += table.to_pylist()
    pointers = [row["pointer"] for row in rows if row["pointer"]]
    for _, found in read_pointers(pointers, 10**7):
        assert isinstance(found, (bytes, PointerError))
    return rows


def _check_rows(rows: list[dict[str, Any]], times: int) -> None:
    shifted = 0
    for row in rows:
        assert re.fullmatch("[0-9a-f]{32}", row["uid"])
        assert isinstance(json.loads(row["meta"]), dict)
        assert (row["status"] == PENDING) == (row["error"] is None)
        if row["status"] == PENDING:
            assert row["url"] or row["pointer"]
            url = re.fullmatch(r"http://h/(\d{4})", row["url"] or "")
            caption = re.fullmatch(r"words of (\d{4}), and more", row["caption"] or "")
            shifted += bool(url and caption and url[1] != caption[1])
    # A piece that is moved or missing may join the ends of two rows; no more than these.
    assert shifted <= 2 * times, f"{shifted} captions are of another row"


def _check_counts(name: str, path: Path, data: bytes, rows: list[dict[str, Any]]) -> None:
    """As many rows as a plain counter finds, where there is one."""
    if name == "a.jsonl":
        text = data.decode("utf-8-sig", "surrogateescape").replace("\0", "")
        assert len(rows) == sum(bool(line.strip()) for line in io.StringIO(text, newline=""))
    if name.endswith(".parquet"):
        assert len(rows) == pq.read_metadata(path).num_rows
