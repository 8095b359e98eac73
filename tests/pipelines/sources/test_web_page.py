"""What is read of a page: its text, its pictures, what it says of its use."""

from __future__ import annotations

import pytest

from gristmill.pipelines.sources.web_page import decode_page, joined, read_page

URL = "https://h.test/a/b.html"


def pictures(html: str, url: str = URL) -> list[tuple[str, list[str]]]:
    return [(image.alt, list(image.urls)) for image in read_page(html).pictures(url)]


@pytest.mark.parametrize(
    ("attributes", "urls"),
    [
        ("src=c.jpg", ["https://h.test/a/c.jpg"]),
        ("SRC='  /c.jpg\t'", ["https://h.test/c.jpg"]),
        ("src='/c\n.jpg'", ["https://h.test/c.jpg"]),
        ("src=//cdn.test/c.jpg", ["https://cdn.test/c.jpg"]),
        ("src=HTTP://cdn.test/c.jpg", ["HTTP://cdn.test/c.jpg"]),
        ("src=../../c.jpg", ["https://h.test/c.jpg"]),
        ("src='?id=5&amp;w=3'", ["https://h.test/a/b.html?id=5&w=3"]),
        ("src=/é.jpg", ["https://h.test/é.jpg"]),
        ("src=''", []),
        ("", []),
        ("src=#", []),
        ("src=data:image/gif;base64,AAAA", []),
        ("src=javascript:void(0)", []),
        ("src=blob:https://h.test/1", []),
        ("src=file:///c.jpg", []),
        ("src=http://[broken", []),
        ("src=https:///", []),
        # Loaded late: that address is the picture's, `src` what stands in for it.
        ("src=grey.gif data-src=/c.jpg", ["https://h.test/c.jpg"]),
        ("src=/c.jpg data-lazy=true", ["https://h.test/c.jpg"]),
        ("src=data:x data-original=/c.jpg", ["https://h.test/c.jpg"]),
        ("data-lazy-src=/c.jpg", ["https://h.test/c.jpg"]),
        ("src=/c.jpg data-src=data:x", ["https://h.test/c.jpg"]),
        # Of a set the largest.
        ("srcset='/s.jpg 300w, /l.jpg 900w,/m.jpg 600w'",
         ["https://h.test/l.jpg", "https://h.test/m.jpg", "https://h.test/s.jpg"]),
        ("src=/1.jpg srcset='/1.jpg, /2,5.jpg 2x'",
         ["https://h.test/1.jpg", "https://h.test/2,5.jpg"]),
        ("srcset=' , ,, '", []),
    ],
)  # fmt: skip
def test_addresses_of_a_picture(attributes: str, urls: list[str]) -> None:
    assert pictures(f"<p><img alt=x {attributes}>") == [("x", urls)]


def test_a_base_counts_for_all_of_the_page() -> None:
    page = "<img src=c.jpg alt=x><base href='/deep/er/'><base href=/no/><img src=d.jpg alt=y>"
    assert pictures(page) == [
        ("x", ["https://h.test/deep/er/c.jpg"]),
        ("y", ["https://h.test/deep/er/d.jpg"]),
    ]
    for odd in ("", "http://[", "javascript:1", "data:x"):
        assert pictures(f"<base href='{odd}'><img src=c.jpg>") == [("", ["https://h.test/a/c.jpg"])]


def test_what_is_a_picture_and_what_is_not() -> None:
    page = """<!-- <img src=a> --><script>"<img src=b>"</script><style>/*<img src=c>*/</style>
    <textarea><img src=d></textarea><noscript><img src=e alt=1></noscript>
    <picture><source srcset=f><IMG src=g alt="2
    3"></picture><svg><image href=h></svg><template><img src=i alt='&quot;4&quot;'></template>
    <img alt=5 src=j"""
    assert [alt for alt, _ in pictures(page)] == ["1", "2 3", '"4"']


@pytest.mark.parametrize("html", ["", "  ", "\0", "<", "<img", "plain text", "<!doctype html>"])
def test_a_page_of_nothing_has_no_pictures(html: str) -> None:
    assert pictures(html) == []


def test_nesting_may_be_as_deep_as_it_likes() -> None:
    html = "<div>" * 200_000 + "<img src=c.jpg alt=x>" + "<b><i>" * 100_000 + "<img src=d.jpg>"
    assert [alt for alt, _ in pictures(html)] == ["x", ""]


def test_meta_tags_are_read_wherever_they_stand() -> None:
    html = "<meta name=Robots content='noai'><body><meta content=1 name=tdm-reservation><meta a=b>"
    assert read_page(html).metas == [("Robots", "noai"), ("tdm-reservation", "1")]


SAID = "日本の橋 and boats"
LATIN = "Brücke über den Fluß"


@pytest.mark.parametrize(
    ("data", "charset", "text"),
    [
        (SAID.encode(), None, SAID),
        (SAID.encode(), "iso-8859-1", SAID),
        (b"\xef\xbb\xbf" + SAID.encode(), "shift_jis", SAID),
        (b"\xff\xfe" + SAID.encode("utf-16-le"), "utf-8", SAID),
        (b"\xfe\xff" + SAID.encode("utf-16-be"), None, SAID),
        (SAID.encode("utf-16-le"), "utf-16le", SAID),
        (SAID.encode("shift_jis"), "Shift_JIS", SAID),
        (SAID.encode("iso2022_jp"), "iso-2022-jp", SAID),
        (LATIN.encode("latin1"), "latin1", LATIN),
        (LATIN.encode("latin1"), None, LATIN),
        # A server that is wrong.
        (LATIN.encode("latin1"), "utf-8", LATIN),
        (LATIN.encode("latin1"), "us-ascii", LATIN),
        ("“quoted” €".encode("cp1252"), "iso-8859-1", "“quoted” €"),
        ("汉字繁體".encode("gb18030"), "gb2312", "汉字繁體"),
        ("Å".encode("latin1") * 9, "no-such-charset", "Å" * 9),
        (b"abc", "hex", "abc"),
        (b"abc", "rot13", "abc"),
        (b"abc", "idna", "abc"),
        (b"abc", "\0", "abc"),
        # Cut in a character, and broken in one place of many.
        (SAID.encode() + b"\xe6\x97", None, SAID + "\ufffd"),
        (SAID.encode() + b"\xff.", "windows-1252", SAID + "\ufffd."),
    ],
)  # fmt: skip
def test_text_is_decoded_as_browsers_do(data: bytes, charset: str | None, text: str) -> None:
    assert decode_page(data, charset) == text


@pytest.mark.parametrize(
    "head",
    [
        '<meta charset="shift_jis">',
        "<meta http-equiv=content-type content='text/html; charset=sjis'>",
        '<?xml version="1.0" encoding="Shift_JIS"?>',
    ],
)
def test_a_page_says_itself_how_it_is_written(head: str) -> None:
    assert decode_page((head + SAID).encode("shift_jis")).endswith(SAID)
    # One that says UTF-16 in ASCII is not that.
    assert decode_page(b"<meta charset=utf-16>" + SAID.encode()).endswith(SAID)


@pytest.mark.parametrize("address", ["c.jpg", "/c.jpg", "/a/../c.jpg", "//x.test/c", "/c?d", "?c"])
@pytest.mark.parametrize("base", [URL, "http://h.test", "http://u@h.test:81/x?y=/z"])
def test_addresses_are_joined_as_the_library_joins_them(base: str, address: str) -> None:
    from urllib.parse import urljoin

    assert joined(base, address) == urljoin(base, address)


def test_without_a_page_only_whole_addresses_are_any() -> None:
    assert joined("", "c.jpg") == joined("", "/c.jpg") == joined("urn:x", "/c.jpg") == ""
    assert joined("", "https://h.test/c.jpg") == "https://h.test/c.jpg"
