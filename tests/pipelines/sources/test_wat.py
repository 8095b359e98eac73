"""WAT files beside the rule of cc2dataset, page by page, and beside the WARC that they speak of."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from source_files import read
from warc_files import (
    DATE,
    Answer,
    cc2dataset_pairs,
    count_records,
    html_page,
    made_pages,
    wat_of,
    write_warc,
    write_wat,
)

from gristmill.errors import SourceError
from gristmill.pipelines.opt_outs import CONTENT_USAGE, ROBOTS_META
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.source import Source

PAGES = 1_000
# What becomes of a picture of each shape of the made pages: a pair by cc2dataset, by us of the WAT,
# by us of the WARC. A WAT has neither `data-src` nor `srcset`.
PAIRS = {
    "relative": (1, 1, 1), "absolute": (1, 1, 1), "no scheme": (1, 1, 1),
    "no alt": (0, 0, 0), "empty alt": (0, 0, 0), "embedded": (0, 0, 0), "no address": (0, 0, 0),
    # A text of spaces is none.
    "blank alt": (1, 0, 0),
    # Loaded late: cc2dataset finds what stands in for it, or nothing.
    "late": (0, 0, 1), "set": (0, 0, 1), "stand-in": (1, 1, 1),
    # Begins with http:// and leads nowhere.
    "broken": (1, 0, 0),
}  # fmt: skip


def pairs(rows: list[dict[str, Any]]) -> Counter[tuple[str, str, str]]:
    """(caption, address, page) of the rows that go on."""
    good = [row for row in rows if row["error"] is None]
    return Counter((r["caption"], r["url"], json.loads(r["meta"])["page_url"]) for r in good)


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A thousand pages, as a WARC and as a WAT, and how many pictures there are of each shape."""
    folder = tmp_path_factory.mktemp("crawl")
    made = made_pages(PAGES, 6_000)
    shapes = Counter(shape for _, found in made for shape in found)
    warc = write_warc(folder / "a.warc.gz", [answer for answer, _ in made], asked=True)
    wat = write_wat(folder / "a.warc.wat.gz", [wat_of(answer) for answer, _ in made])
    return warc, wat, shapes


def test_pairs_of_a_thousand_pages_beside_cc2dataset(crawl: Any) -> None:
    warc, wat, shapes = crawl
    theirs = Counter(cc2dataset_pairs(wat))
    of_wat, of_warc = pairs(read(wat)), pairs(read(warc))
    for place, found in enumerate((theirs, of_wat, of_warc)):
        expected = sum(count * PAIRS[shape][place] for shape, count in shapes.items())
        assert sum(found.values()) == expected
    assert min(shapes.values()) > 50, "each shape is there often enough to be seen"
    # What only they have: texts of spaces, and addresses that lead nowhere.
    assert {alt.strip() and url for alt, url, _ in theirs - of_wat} == {"", "http://[broken"}
    assert of_wat - theirs == Counter()
    # The pages themselves say where pictures are that are loaded late.
    late = of_warc - of_wat
    assert sum(late.values()) == shapes["late"] + shapes["set"] + shapes["stand-in"]
    assert {url.split("/")[3] for _, url, _ in late if "/deep/" not in url} == {
        "late", "set", "real",
    }  # fmt: skip
    missed = of_wat - of_warc
    assert {url.rpartition("/")[2] for _, url, _ in missed} == {"grey.gif"}


def test_rows_of_a_thousand_pages_are_all_pictures_and_all_other_pages(crawl: Any) -> None:
    warc, wat, shapes = crawl
    rows = read(warc)
    bare = sum(row["error"] == "page without pictures" for row in rows)
    assert len(rows) == sum(shapes.values()) + bare
    assert len({json.loads(r["meta"]).get("page_url", r["url"]) for r in rows}) == PAGES
    assert count_records(warc) == PAGES
    # Of a WAT, those with an address in `src`; a page whose pictures have none is bare there.
    rows = read(wat)
    bare = sum(row["error"] == "page without pictures" for row in rows)
    assert len(rows) - bare == sum(shapes.values()) - shapes["set"] - shapes["no address"]
    assert count_records(wat, ["metadata"]) == PAGES


def test_a_thousand_pages_are_as_many_documents(crawl: Any) -> None:
    warc, _, _ = crawl
    source = DocumentSource(path=str(warc))
    tables = [table for chunk in source.chunks() for table in source.read(chunk)]
    assert sum(map(len, tables)) == PAGES
    assert all(table["error"].null_count == len(table) for table in tables)


def test_what_a_wat_says_of_pages(tmp_path: Path) -> None:
    boat = 'src=/c.jpg alt="a boat"'
    page = wat_of(Answer("https://h.test/a.html", html_page(boat, head="<base href='/x/'>")))
    twice = wat_of(Answer("https://h.test/b.html", html_page("src=d.jpg alt=d", "src=e.jpg")))
    request = {"Envelope": {"Payload-Metadata": {"HTTP-Request-Metadata": {}},
                            "WARC-Header-Metadata": {}}}  # fmt: skip
    usage, noai = [("Content-Usage", "train-ai=n")], "<meta name=robots content=noai>"
    path = write_wat(
        tmp_path / "a.wat.gz",
        [
            page, request, twice, b"{broken", b"[]", b"",
            {"Envelope": {"WARC-Header-Metadata": {}}},
            wat_of(Answer("https://h.test/c.pdf", b"", "application/pdf")),
            wat_of(Answer("https://h.test/d", b"", status="404 Not Found")),
            wat_of(Answer("https://h.test/e", html_page(boat), headers=usage)),
            wat_of(Answer("https://h.test/f", html_page(boat, head=noai))),
            wat_of(Answer("https://h.test/g", b"<html>")),
        ],
    )  # fmt: skip
    rows = read(path)
    assert [(row["url"], row["caption"]) for row in rows[:3]] == [
        ("https://h.test/c.jpg", "a boat"), ("https://h.test/d.jpg", "d"),
        ("https://h.test/e.jpg", None),
    ]  # fmt: skip
    assert json.loads(rows[0]["meta"]) == {
        "page_url": "https://h.test/a.html", "crawl_date": DATE,
    }  # fmt: skip
    assert [row["error"] for row in rows] == [
        None, None, "no alt text", *["broken record"] * 4, "not a page", "http 404", CONTENT_USAGE,
        ROBOTS_META, "page without pictures",
    ]  # fmt: skip
    assert [row["error"] for row in read(path, opt_out="off")][9:11] == [None, None]
    # All but the request, and one more for the second picture of a page.
    assert len(rows) == count_records(path, ["metadata"]) - 1 + 1


@pytest.mark.parametrize(
    "harm",
    [
        {"Links": [None, 5, {"path": 5}, {"path": "IMG@/src"}, {"path": "IMG@/src", "url": [1]}]},
        {"Links": {"path": "IMG@/src"}}, {"Links": "IMG"}, {"Head": 5}, {"Head": {"Base": ["x"]}},
        {"Head": {"Metas": [5, {"name": 5}, {"content": "x"}]}}, None, [],
    ],
)  # fmt: skip
def test_odd_values_in_a_wat_harm_nothing(harm: Any, tmp_path: Path) -> None:
    envelope = wat_of(Answer("https://h.test/a", html_page("src=c.jpg alt=c")))
    response = envelope["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]
    response["HTML-Metadata"] = {**response["HTML-Metadata"], **harm} if harm else harm
    response["Headers"] = {"X-Robots-Tag": ["all", 5], "a": None}
    rows = read(write_wat(tmp_path / "a.wat", [envelope], gzip=False))
    assert rows and {row["error"] for row in rows} <= {None, "page without pictures", "no url"}


def test_a_wat_is_told_from_a_warc(tmp_path: Path) -> None:
    envelope = wat_of(Answer("https://h.test/a", html_page("src=c.jpg alt=c")))
    for name in ("a.wat", "a.wat.gz", "a.warc.wat.gz", "b/a.warc.wat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        path = write_wat(tmp_path / name, [envelope], gzip=name.endswith("gz"))
        assert [chunk.format for chunk in Source(path=str(path)).chunks()] == ["wat"]
        assert len(read(path)) == 1
    assert [chunk.format for chunk in Source(path=str(tmp_path / "b")).chunks()] == ["wat"]
    with pytest.raises(SourceError, match=f"write wat:{path}"):
        Source(path=f"warc:{path}").check_columns()
    with pytest.raises(SourceError, match="documents do not come as wat"):
        DocumentSource(path=str(path)).check_columns()
