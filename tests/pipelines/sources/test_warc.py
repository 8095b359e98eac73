"""Crawl archives as sources of pairs and of documents: every record that holds something is in a
row, pictures come from the archive where they lie in it, and wishes of pages are kept."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from source_files import bytes_of, jpeg, read
from warc_files import DATE, Answer, count_records, html_page, made_pages, write_warc

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.errors import SourceError
from gristmill.pipelines.documents.assemble_documents import AssembleDocuments
from gristmill.pipelines.documents.document_images import DocumentImages
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.opt_outs import CONTENT_USAGE, ROBOTS_HEADER, ROBOTS_META, TDM_HEADER
from gristmill.pipelines.opt_outs import TDM_META as TDM_TAG
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources import warc
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.source import Source

PAGE = "https://h.test/a/page.html"
BOAT = 'src=boat.jpg alt="a red boat"'


def pages(folder: Path, *answers: Answer, name: str = "crawl.warc.gz", **fields: Any) -> Any:
    """Rows of pairs of an archive of these answers."""
    path = write_warc(folder / name, answers, gzip=name.endswith(".gz"), asked=True)
    return read(path, **fields)


def documents(path: Path, **fields: Any) -> pa.Table:
    """Rows of pictures of the documents of an archive."""
    source = DocumentSource(path=str(path), **fields)
    source.check()
    source.check_columns()
    tables = [table for chunk in source.chunks() for table in source.read(chunk)]
    return pa.concat_tables(DocumentImages().map(pa.concat_tables(tables)))


def errors(rows: list[dict[str, Any]]) -> list[str | None]:
    return [row["error"] for row in rows]


# -- pairs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.WARC.GZ"])
def test_pictures_with_alternative_text_are_pairs(name: str, tmp_path: Path) -> None:
    images = [BOAT, "src=/bridge.png alt=bridge", "src=c.jpg", 'src=d.jpg alt=" "', "alt=x"]
    rows = pages(tmp_path, Answer(PAGE, html_page(*images, "src=data:x alt=y")), name=name)
    assert [(row["url"], row["caption"], row["error"]) for row in rows] == [
        ("https://h.test/a/boat.jpg", "a red boat", None),
        ("https://h.test/bridge.png", "bridge", None),
        ("https://h.test/a/c.jpg", None, "no alt text"),
        ("https://h.test/a/d.jpg", None, "no alt text"),
        (None, "x", "no url"),
        (None, "y", "not an http address"),
    ]
    for row in rows:
        assert json.loads(row["meta"]) == {"page_url": PAGE, "crawl_date": DATE}
        assert row["pointer"] is None
    assert len({row["uid"] for row in rows}) == len({row["image_id"] for row in rows}) == 6


def test_a_pair_is_known_by_its_address_wherever_it_was_found(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,caption\nhttps://h.test/a/boat.jpg,a red boat\n")
    (listed,) = read(tmp_path / "list.csv")
    for others in ([], [Answer("https://h.test/a/boat.jpg", jpeg(), "image/jpeg")]):
        (found,) = pages(tmp_path, Answer(PAGE, html_page(BOAT)), *others)
        assert (found["uid"], found["image_id"]) == (listed["uid"], listed["image_id"])


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst"])
def test_pictures_of_the_archive_are_taken_from_it(name: str, tmp_path: Path) -> None:
    """Before or behind their page, moved, revisited, under the largest address or another."""
    packed = [("Content-Encoding", "gzip")]
    moved = [("Location", "/moved.png")]
    answers = [
        Answer("https://h.test/a/boat.jpg", jpeg(0), "image/jpeg"),
        Answer(PAGE, html_page(
            BOAT, "src=/old.png alt=moved", "src=/again.jpg alt=again", "src=/gone.jpg alt=gone",
            "src=/s.jpg srcset='/s.jpg 1x, /l.jpg 2x' alt=set", "src=/packed alt=packed",
            "src=/web.jpg alt=web", "src=/file.jpg#part alt=resource",
        )),
        Answer("https://h.test/old.png", b"", "text/html", moved, "301 Moved Permanently"),
        Answer("https://h.test/moved.png", jpeg(1), "image/png"),
        Answer("https://h.test/again.jpg", b"", "image/jpeg", kind="revisit",
               record=[("refers", "https://h.test/a/boat.jpg")]),
        Answer("https://h.test/l.jpg", jpeg(2), "image/jpeg"),
        Answer("https://h.test/packed", gzip.compress(jpeg(3), mtime=0), "image/jpeg", packed),
        Answer("https://h.test/gone.jpg", b"nothing", "image/jpeg", status="404 Not Found"),
        Answer("https://h.test/file.jpg", jpeg(4), "image/jpeg", kind="resource"),
        Answer("https://h.test/unseen.jpg", jpeg(5), "image/jpeg"),
    ]  # fmt: skip
    path = write_warc(tmp_path / "made.warc", answers, gzip=name.endswith("gz"), asked=True)
    data = path.read_bytes()
    if name.endswith("zst"):
        data = pa.Codec("zstd").compress(data, asbytes=True)
    path.unlink()
    (tmp_path / name).write_bytes(data)
    rows = read(tmp_path / name)
    there = {row["caption"]: row for row in rows if row["pointer"]}
    found = dict(zip(there, bytes_of(list(there.values())), strict=True))
    assert found == {
        "a red boat": jpeg(0), "moved": jpeg(1), "again": jpeg(0), "set": jpeg(2),
        "packed": jpeg(3), "resource": jpeg(4),
    }  # fmt: skip
    assert there["set"]["url"] == "https://h.test/l.jpg"
    assert there["moved"]["url"] == "https://h.test/old.png"
    rest = [row for row in rows if not row["pointer"]]
    assert [(row["url"].rpartition("/")[2], row["error"]) for row in rest] == [
        ("gone.jpg", None), ("web.jpg", None), ("gone.jpg", "http 404"),
        ("unseen.jpg", "picture of no page"),
    ]  # fmt: skip


def test_every_record_that_holds_something_is_in_a_row(tmp_path: Path) -> None:
    cut = [("WARC-Truncated", "length")]
    answers = [
        Answer(PAGE, html_page(BOAT)),
        Answer("https://h.test/none.html", b"<html><p>no pictures"),
        Answer("https://h.test/a.pdf", b"%PDF", "application/pdf"),
        Answer("https://h.test/robots.txt", b"User-agent: *", "text/plain"),
        Answer("https://h.test/404", html_page(BOAT), status="404 Not Found"),
        Answer("https://h.test/r", b"", HTML_MOVED, [("Location", "/")], "302 Found"),
        Answer("https://h.test/again", b"", kind="revisit"),
        Answer("dns:h.test", b"1.2.3.4", "text/dns", kind="resource"),
        Answer("https://h.test/packed", b"\x1f\x8b\x08 x", headers=[("Content-Encoding", "gzip")]),
        Answer("https://h.test/half.jpg", b"\xff\xd8", "image/jpeg", record=cut),
        Answer("https://h.test/untyped", b" <!DOCTYPE html><img src=c.jpg alt=c>", ""),
        Answer("https://h.test/nothing", b"\0\1", ""),
        Answer("https://h.test/empty", b""),
        Answer("https://h.test/x", html_page(BOAT), "application/xhtml+xml; charset=utf-8"),
    ]
    rows = pages(tmp_path, *answers)
    assert Counter(errors(rows)) == {
        None: 3, "page without pictures": 2, "not a page": 4, "http 404": 1, "http 302": 1,
        "revisit of an earlier record": 1, "payload not decodable": 1, "truncated record": 1,
    }  # fmt: skip
    assert {row["url"] for row in rows} >= {a.uri for a in answers if "page" not in a.uri} - {
        "https://h.test/untyped", "https://h.test/x"
    }  # fmt: skip
    assert len(rows) == count_records(tmp_path / "crawl.warc.gz")


HTML_MOVED = "text/html"


def test_pages_as_they_were_sent(tmp_path: Path) -> None:
    """Chunked, packed, in their own encodings."""
    page = "<meta charset=shift_jis><img src=c.jpg alt='日本の橋'>".encode("shift_jis")
    chunked = b"5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (page[:5], len(page) - 5, page[5:])
    latin = "<img src=c.jpg alt='Brücke'>".encode("latin1")
    answers = [
        Answer(PAGE, chunked, "text/html", [("Transfer-Encoding", "chunked")]),
        Answer(PAGE, gzip.compress(latin, mtime=0), "text/html; charset=ISO-8859-1",
               [("Content-Encoding", "gzip")]),
    ]  # fmt: skip
    assert [row["caption"] for row in pages(tmp_path, *answers)] == ["日本の橋", "Brücke"]


def test_a_page_beyond_the_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warc, "LARGEST_PAGE", 10_000)
    packed = [("Content-Encoding", "gzip")]
    large = html_page(BOAT) + b" " * 10_000
    answers = [Answer(PAGE, large), Answer(PAGE, gzip.compress(large, mtime=0), headers=packed)]
    rows = pages(tmp_path, *answers, Answer(PAGE, html_page(BOAT)))
    assert errors(rows) == ["page too large", "page too large", None]


def test_an_archive_that_is_cut_has_a_row_for_it(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "a.warc.gz", [a for a, _ in made_pages(6, 3_000)])
    data = path.read_bytes()
    sound = read(path)
    path.write_bytes(data[:-300])
    rows = read(path)
    assert errors(rows)[-1] == "truncated record"
    assert [row["uid"] for row in rows[:-1]] == [row["uid"] for row in sound][: len(rows) - 1]


# -- wishes -------------------------------------------------------------------------------------

WISHES = {
    "robots": ([("X-Robots-Tag", "noai")], "", ROBOTS_HEADER),
    "images": ([("x-robots-tag", "noimageai, nofollow")], "", ROBOTS_HEADER),
    "usage": ([("Content-Usage", "train-ai=n")], "", CONTENT_USAGE),
    "tdm": ([("TDM-Reservation", "1")], "", TDM_HEADER),
    "meta": ([], "<meta name=robots content='index, noai'>", ROBOTS_META),
    "noml": ([], "<META NAME=ROBOTS CONTENT=NOML>", ROBOTS_META),
    "ours": ([], "<meta name=gristmill content=noimageindex>", ROBOTS_META),
    "tdm tag": ([], "<meta content=1 name=tdm-reservation>", TDM_TAG),
}


@pytest.mark.parametrize("wish", WISHES)
def test_a_page_that_forbids_it_is_refused(wish: str, tmp_path: Path) -> None:
    headers, head, reason = WISHES[wish]
    refused = Answer(PAGE, html_page(BOAT, BOAT, head=head), headers=headers)
    other = Answer("https://h.test/b.html", html_page(BOAT, head="<meta name=robots content=all>"))
    rows = pages(tmp_path, refused, other)
    assert [(row["url"], row["error"]) for row in rows] == [
        (PAGE, reason), ("https://h.test/boat.jpg", None),
    ]  # fmt: skip
    assert rows[0]["status"] == "failed_to_download"
    path = tmp_path / "crawl.warc.gz"
    assert errors(documents(path).to_pylist()) == [reason, None]
    assert errors(documents(path, opt_out="off").to_pylist()) == [None, None, None]
    assert errors(read(path, opt_out="off")) == [None, None, None]


def test_a_picture_of_the_archive_that_forbids_it_is_refused(tmp_path: Path) -> None:
    boat = Answer("https://h.test/a/boat.jpg", jpeg(), "image/jpeg", WISHES["usage"][0])
    rows = pages(tmp_path, Answer(PAGE, html_page(BOAT, "src=c.jpg alt=c")), boat)
    assert [(row["pointer"], row["error"]) for row in rows] == [(None, CONTENT_USAGE), (None, None)]
    path = tmp_path / "crawl.warc.gz"
    assert errors(documents(path).to_pylist()) == [CONTENT_USAGE, None]
    (row, _) = read(path, opt_out="off")
    assert row["error"] is None and row["pointer"]


# -- documents ----------------------------------------------------------------------------------


def test_pages_are_documents_with_their_pictures(tmp_path: Path) -> None:
    images = ["src=/show?id=7 alt='a boat'", "src=x data-src=/late.jpg alt=late", "src=w.jpg"]
    answers = [
        Answer(PAGE, html_page(*images, head="<base href=/deep/>")),
        Answer("https://h.test/show?id=7", jpeg(1), "image/jpeg"),
        Answer("https://h.test/late.jpg", jpeg(2), "image/jpeg"),
        Answer("https://h.test/a.pdf", b"%PDF", "application/pdf"),
        Answer("https://h.test/bare.html", b"<html><img src=a.jpg>"),
    ]
    path = write_warc(tmp_path / "a.warc.gz", answers, asked=True)
    rows = documents(path).to_pylist()
    shown = [row for row in rows if row["status"] == "pending"]
    assert [(row["url"], row["image_alt"], row["image_place"]) for row in shown] == [
        ("https://h.test/show?id=7", "a boat", 2), ("https://h.test/late.jpg", "late", 3),
        ("https://h.test/deep/w.jpg", "", 4),
    ]  # fmt: skip
    assert bytes_of(shown[:2]) == [jpeg(1), jpeg(2)] and shown[2]["pointer"] is None
    assert {row["document_url"] for row in shown} == {PAGE}
    assert sorted(row["error"] for row in rows if row["error"]) == ["no main text", "not a page"]


def test_documents_are_decoded_as_their_server_says(tmp_path: Path) -> None:
    said = "橋の下に赤い舟があります。川には町の光が映り、人々は静かに待っています。" * 8
    page = html_page(BOAT, text=said).decode().encode("euc_jp")
    path = write_warc(tmp_path / "a.warc.gz", [Answer(PAGE, page, "text/html; charset=euc-jp")])
    (row,) = documents(path).to_pylist()
    assert said[:30] in row["texts"][1]


def test_two_captures_of_a_page_are_two_documents_if_they_differ(tmp_path: Path) -> None:
    page, later = html_page(BOAT), html_page(BOAT, text="Another day, other boats. " * 5)
    answers = [Answer(PAGE, body) for body in (page, page, later)]
    source = DocumentSource(path=str(write_warc(tmp_path / "a.warc.gz", answers)))
    rows = pa.concat_tables(t for chunk in source.chunks() for t in source.read(chunk))
    first, second, third = rows["uid"].to_pylist()
    assert first == second != third


# -- what lies where ----------------------------------------------------------------------------


def test_archives_of_a_folder_are_found(tmp_path: Path) -> None:
    for i in range(3):
        answer = Answer(f"https://h.test/{i}.html", html_page(BOAT))
        write_warc(tmp_path / f"{i}.warc.gz", [answer])
    (tmp_path / "0.warc.wat.gz").write_bytes(b"")
    source = Source(path=str(tmp_path))
    assert [chunk.format for chunk in source.chunks()] == ["warc"] * 3
    assert source.notes() == [f"{tmp_path}: not read: 1 .gz"]
    assert source.estimate_rows() is None
    assert len(read(f"warc:{tmp_path}")) == 3
    assert len(read(tmp_path / "*.warc.gz")) == 3


def test_what_is_no_archive_of_pages_is_an_error(tmp_path: Path) -> None:
    path = write_warc(tmp_path / "a.warc.gz", [Answer(PAGE, html_page(BOAT))])
    with pytest.raises(SourceError, match="videos do not come as warc"):
        Source(path=str(path), kind="video").check_columns()
    with pytest.raises(SourceError, match="pairs do not come as warc"):
        DocumentSource(path=str(path), kind="pair").check_columns()
    with pytest.raises(SourceError, match=f"write warc:{path}"):
        Source(path=f"wat:{path}").check_columns()
    (tmp_path / "b.warc.gz").write_bytes(b"<html>")
    with pytest.raises(SourceError, match="does not begin with a record"):
        Source(path=str(tmp_path / "b.warc.gz")).check_columns()
    (tmp_path / "a.warc.wet.gz").write_bytes(b"")
    with pytest.raises(SourceError, match="the format cannot be told"):
        Source(path=str(tmp_path / "a.warc.wet.gz")).check_columns()


def ten_pages(folder: Path) -> Path:
    answers = []
    for n in range(10):
        images = [f"src=/{n}-{i}.jpg alt='boat {n} {i}'" for i in range(2)]
        headers = [("X-Robots-Tag", "noai")] if n == 9 else []
        answers.append(Answer(f"https://h.test/{n}.html", html_page(*images), headers=headers))
        answers += [
            Answer(f"https://h.test/{n}-{i}.jpg", jpeg(10 * n + i), "image/jpeg") for i in range(2)
        ]
    answers.append(Answer("https://h.test/a.css", b"a{}", "text/css"))
    path = write_warc(folder / "ten.warc.gz", answers, asked=True)
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    return path


@pytest.mark.parametrize("kind", ["pairs", "documents"])
def test_ten_pages_go_to_shards_and_the_ledger_adds_up(kind: str, tmp_path: Path) -> None:
    path = ten_pages(tmp_path)
    nodes = {
        "source": Node(Source(path=str(path))),
        "download": Node(Download(image_size=32), ("source",)),
        "shards": Node(Shards(), ("download",)),
    }
    if kind == "documents":
        nodes = {
            "source": Node(DocumentSource(path=str(path))),
            "images": Node(DocumentImages(), ("source",)),
            "download": Node(Download(image_size=32), ("images",)),
            "documents": Node(AssembleDocuments(), ("download",)),
            "shards": Node(Shards(media="document"), ("documents",)),
        }
    options = RunOptions(runner="local", supervision=Supervision(isolate=False))
    progress = make_progress(plain=True)
    summary = execute(Dag("crawl", nodes), str(tmp_path / "run"), options, progress)
    # A row for each picture of nine pages, or for each page; one for the tenth page, its two
    # pictures, the style sheet and what is cut. A plain counter finds all but the last.
    others = {ROBOTS_HEADER: 1, "picture of no page": 2, "not a page": 1, "truncated record": 1}
    assert count_records(path) == 9 + 18 + 4
    shown = 18 if kind == "pairs" else 9
    assert summary["rows_in"] == shown + sum(others.values())
    assert summary["kept"] == shown and summary["ledger_ok"]
    lost = Counter[str]()
    for reasons in summary["dropped"].values():
        lost.update(reasons)
    assert lost == others
