"""The ledger begins at the first line: as many rows as a plain counter finds in the source, with
one line in twenty broken."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import jpeg, read, write_tar
from warc_files import Answer, count_records, html_page, wat_of, write_warc, write_wat

ROWS = 120
# As a plain counter counts: lines that are not blank, rows of the metadata, pictures, entries.
Counted = tuple[Path | str, int, dict[str, str]]
PICTURE = jpeg()


def broken(rng: random.Random, number: int) -> bool:
    return (number and rng.random() < 0.05) or number == 7


def text(folder: Path, ending: str, lines: list[bytes]) -> Counted:
    path = folder / f"a{ending}"
    data = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(data, mtime=0) if ending.endswith(".gz") else data)
    return path, len([line for line in data.split(b"\n") if line]), {}


def delimited(ending: str, mark: bytes) -> Callable[[Path, random.Random], Counted]:
    def make(folder: Path, rng: random.Random) -> Counted:
        lines = [b"url" + mark + b"caption"]
        for i in range(ROWS):
            line = b"http://h/%d%scaption %d" % (i, mark, i)
            torn = [b"http://h/%d" % i, line + mark + b"more", b"", b"\xff\xfe" + line, mark * 5,
                    b'http://h/%d%s"5" wide' % (i, mark)]  # fmt: skip
            lines.append(rng.choice(torn) if broken(rng, i) else line)
        path, count, fields = text(folder, ending, lines)
        return path, count - 1, fields

    return make


def json_lines(folder: Path, rng: random.Random) -> Counted:
    lines = []
    for i in range(ROWS):
        line = json.dumps({"url": f"http://h/{i}", "caption": f"caption {i}"}).encode()
        torn = [line[: rng.randrange(1, len(line))], b"[%d]" % i, b"null %d" % i, b"\xff" + line,
                b"", line[:-1] + b', "url": "x"}', line + line]  # fmt: skip
        lines.append(rng.choice(torn) if broken(rng, i) else line)
    return text(folder, ".jsonl", lines)


def url_list(folder: Path, rng: random.Random) -> Counted:
    lines = [b"\xff%d" % i if broken(rng, i) else b"http://h/%d" % i for i in range(ROWS)]
    return text(folder, ".txt", lines)


def parquet(folder: Path, rng: random.Random) -> Counted:
    path = folder / "a.parquet"
    urls = [None if broken(rng, i) else b"http://h/%d" % i for i in range(ROWS)]
    captions = [b"\xff" if broken(rng, i) else b"caption %d" % i for i in range(ROWS)]
    table = pa.table({"url": urls, "caption": pa.array(captions).view(pa.string())})
    pq.write_table(table, path, row_group_size=20, use_dictionary=False)
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(3).column(1).data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))
    return path, pq.read_metadata(path).num_rows, {}


def pictures(folder: Path, rng: random.Random) -> Counted:
    path = folder / "a.parquet"
    cells = [
        None if broken(rng, i) else {"bytes": PICTURE[:-1] + bytes([i]), "path": None}
        for i in range(ROWS)
    ]
    pq.write_table(pa.table({"image": cells, "n": list(range(ROWS))}), path)
    return path, ROWS, {}


def tar(ending: str) -> Callable[[Path, random.Random], Counted]:
    def make(folder: Path, rng: random.Random) -> Counted:
        members: list[tuple[str, bytes | str]] = []
        for i in range(ROWS):
            picture, caption = (f"{i}.jpg", PICTURE), (f"{i}.txt", b"c%d" % i)
            torn: list[list[tuple[str, bytes | str]]] = [
                [picture], [picture, (f"{i}.txt", b"\xff")], [(f"{i}.jpg", "none"), caption],
                [(f"{i}.a.jpg", PICTURE), (f"{i}.b.jpg", PICTURE), caption], [picture, picture],
                [picture, caption, (f"._{i}.txt", b"x")], [picture, (f"{i}.json", b"{")],
            ]  # fmt: skip
            members += rng.choice(torn) if broken(rng, i) else [picture, caption]
        path = write_tar(folder / f"a.{ending}", members, "w" if ending == "tar" else "w:gz")
        return path, sum(name.endswith(".jpg") for name, _ in members), {}

    return make


def img2dataset(folder: Path, rng: random.Random) -> Counted:
    facts, members = [], []
    for i in range(ROWS):
        good = not broken(rng, i)
        facts.append(
            {
                "url": f"http://h/{i}",
                "key": str(i),
                "status": "success" if good else "failed_to_resize",
            }
        )
        members += [(f"{i}.jpg", PICTURE)] if not broken(rng, i) else []
    write_tar(folder / "0.tar", members)
    pq.write_table(pa.Table.from_pylist(facts), folder / "0.parquet")
    return folder, ROWS, {}


def coco(folder: Path, rng: random.Random) -> Counted:
    images: list[object] = []
    captions: list[object] = []
    (folder / "im").mkdir()
    for i in range(ROWS):
        (folder / "im" / f"{i}.jpg").write_bytes(PICTURE)
        images.append(
            rng.choice([None, {"id": i}]) if broken(rng, i) else {"id": i, "file_name": f"{i}.jpg"}
        )
        captions.append(
            rng.choice([5, {"caption": str(i)}])
            if broken(rng, i)
            else {"image_id": i, "id": i, "caption": "c"}
        )
    document = {"images": images, "annotations": captions}
    (folder / "c.json").write_text(json.dumps(document))
    known = {image["id"] for image in images if isinstance(image, dict)}
    told = {c.get("image_id") for c in captions if isinstance(c, dict)}
    count = len(captions) + images.count(None) + len(known - told)
    return folder / "c.json", count, {"images": str(folder / "im")}


def files(folder: Path, rng: random.Random) -> Counted:
    for i in range(ROWS):
        (folder / f"{i}.jpg").write_bytes(PICTURE)
        (folder / f"{i}.txt").write_bytes(b"\xff" if broken(rng, i) else b"caption")
    return folder, len(list(folder.glob("*.jpg"))), {}


def crawl(folder: Path, rng: random.Random) -> Counted:
    answers = []
    for i in range(ROWS):
        page = Answer(f"http://h/{i}", html_page(f"src={i}.jpg alt=boat"))
        torn = [
            replace(page, status="404 Not Found"), replace(page, kind="revisit"),
            replace(page, body=b"no pictures"), replace(page, type="application/pdf"),
            replace(page, headers=[("X-Robots-Tag", "noai")]), replace(page, body=b""),
            replace(page, body=html_page("src=x.jpg")), replace(page, type="image/png"),
            replace(page, body=b"\x1f\x8b", headers=[("Content-Encoding", "gzip")]),
        ]  # fmt: skip
        answers.append(rng.choice(torn) if broken(rng, i) else page)
    path = write_warc(folder / "a.warc.gz", answers, asked=True)
    return path, count_records(path), {}


def metadata_of_crawl(folder: Path, rng: random.Random) -> Counted:
    envelopes: list[Any] = []
    for i in range(ROWS):
        page = Answer(f"http://h/{i}", html_page(f"src={i}.jpg alt=boat"))
        torn = [
            b"{", b"", {"Envelope": {"WARC-Header-Metadata": {}}}, wat_of(replace(page, body=b"")),
            wat_of(replace(page, type="text/plain")),
        ]  # fmt: skip
        envelopes.append(rng.choice(torn) if broken(rng, i) else wat_of(page))
    path = write_wat(folder / "a.wat.gz", envelopes)
    return path, count_records(path, ["metadata"]), {}


FORMATS = {
    "csv": delimited(".csv", b","), "csv.gz": delimited(".csv.gz", b","),
    "tsv": delimited(".tsv", b"\t"),
    "jsonl": json_lines, "txt": url_list, "parquet": parquet, "hf": pictures, "tar": tar("tar"),
    "tar.gz": tar("tar.gz"), "img2dataset": img2dataset, "coco": coco, "folder": files,
    "warc": crawl, "wat": metadata_of_crawl,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("form", FORMATS)
def test_there_are_as_many_rows_as_lines(form: str, seed: int, tmp_path: Path) -> None:
    path, count, fields = FORMATS[form](tmp_path, random.Random(seed))
    rows = read(path, **fields)
    assert len(rows) == count
    good = [row for row in rows if row["error"] is None]
    assert 0.6 * count < len(good) < count
    if form in ("csv", "csv.gz", "tsv", "jsonl"):
        # Nothing is shifted: a caption ends with the number of its address.
        for row in good:
            number = row["url"].rpartition("/")[2]
            caption = row["caption"] or ""
            assert caption in ("", f"caption {number}") or "wide" in caption
