"""robots.txt in the shapes that RFC 9309 speaks of, and tdmrep.json."""

from __future__ import annotations

import json

import pytest

from gristmill.pipelines.download.site_files import FILE_BYTES, read_robots, read_tdmrep
from gristmill.pipelines.opt_outs import ROBOTS_TXT, TDMREP, USAGE_IN_ROBOTS_TXT

# Name -> robots.txt, paths that it allows us ("ExampleBot"), paths that it does not.
SHAPES: dict[str, tuple[bytes, tuple[str, ...], tuple[str, ...]]] = {
    "nothing": (b"", ("/", "/a.jpg"), ()),
    "an html page": (b"<!doctype html><p>User-agent is: not found</p>", ("/", "/a.jpg"), ()),
    "all of it": (b"User-agent: *\nDisallow: /\n", ("/robots.txt",), ("/", "/a.jpg", "/?q")),
    "an empty disallow": (b"User-agent: *\nDisallow:\n", ("/", "/a.jpg"), ()),
    # RFC 9309, 5.1.
    "several groups": (
        b"User-Agent: *\nDisallow: *.gif$\nDisallow: /example/\nAllow: /publications/\n\n"
        b"User-Agent: foobot\nDisallow:/\nAllow:/example/page.html\nAllow:/example/allowed.gif\n\n"
        b"User-Agent: barbot\nUser-Agent: bazbot\nDisallow: /example/page.html\n\n"
        b"User-Agent: quxbot\n\nEOF",
        ("/publications/a.jpg", "/a.gif.jpg", "/"),
        ("/a.gif", "/example/a.jpg", "/example/page.html"),
    ),
    # RFC 9309, 5.2, whose longest match is the one that counts.
    "the longest match": (
        b"User-Agent: ExampleBot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif\n",
        ("/example/page/a.gif", "/example/"),
        ("/example/page/disallowed.gif",),
    ),
    "a tie": (b"User-agent: *\nDisallow: /a\nAllow: /a\n", ("/a", "/ab"), ()),
    "our own group alone": (
        b"User-agent: *\nDisallow: /\n\nUser-agent: examplebot\nDisallow: /private\n",
        ("/a.jpg",),
        ("/private/a.jpg",),
    ),
    "our group twice, once with others": (
        b"User-agent: ExampleBot\nDisallow: /a\n\nUser-agent: other\nDisallow: /c\n\n"
        b"User-agent: one\nUser-agent: EXAMPLEBOT/2.0 # us\nDisallow: /b\n",
        ("/c", "/"),
        ("/a", "/b"),
    ),
    "names that are not ours": (
        b"User-agent: Example\nUser-agent: ExampleBot-News\nUser-agent: Bot\nDisallow: /\n",
        ("/a.jpg",),
        (),
    ),
    "wildcards": (
        b"User-agent: *\nDisallow: /*.php$\nDisallow: /tmp/*/secret\nDisallow: /$\n",
        ("/a.php5", "/a.php?x", "/tmp/secret", "/a"),
        ("/a.php", "/tmp/x/y/secret.jpg", "/"),
    ),
    "line ends of three kinds, and a mark": (
        b"\xef\xbb\xbfUser-agent: *\r\nDisallow: /a\rDisallow: /b\nDisallow: /c",
        ("/d",),
        ("/a", "/b", "/c"),
    ),
    # RFC 9309, 2.2.2: codes are compared as what they stand for.
    "percent codes": (
        "User-agent: *\nDisallow: /foo/bar/\u30c4\nDisallow: /a%3cd\nDisallow: /q%2Fr\n"
        "Disallow: /%7Ejoe\n".encode(),
        ("/q/r", "/foo/bar/"),
        ("/foo/bar/%E3%83%84", "/foo/bar/%e3%83%84.jpg", "/a%3Cd", "/q%2fr", "/~joe", "/%7ejoe"),
    ),
    "case": (
        b"USER-AGENT: *\nDISALLOW: /Private\nallow : /Private/open\n",
        ("/private", "/Private/open/a.jpg"),
        ("/Private/a.jpg",),
    ),
    "comments and lines of no kind": (
        b"# all\nSitemap: https://example.com/map.xml\nUser-agent: * # everybody\nFoo: bar\n"
        b"Host: example.com\nUser-agent: other\nNoindex: /\nDisallow: /a # secret\nnonsense\n",
        ("/b",),
        ("/a",),
    ),
    "rules before any group": (b"Disallow: /a\nUser-agent: *\nDisallow: /b\n", ("/a",), ("/b",)),
    "the query": (
        b"User-agent: *\nDisallow: /*?session=\n", ("/a?x=1",), ("/a?session=1", "/?session="),
    ),
    "bytes of no script, and nothing": (
        b"User-agent: *\nDisallow: /\xff\xfe\nDis\0allow: /a\n", ("/b",), ("/a",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_of_robots_txt(name: str) -> None:
    text, allowed, disallowed = SHAPES[name]
    robots = read_robots(text, "ExampleBot")
    found = {path: robots.opt_out(f"http://example.com{path}") for path in (*allowed, *disallowed)}
    assert found == dict.fromkeys(allowed) | dict.fromkeys(disallowed, ROBOTS_TXT)


def test_half_a_megabyte_is_read_and_no_more() -> None:
    filler = b"Allow: /filler\n" * (501 * 1024 // 15)
    long = b"User-agent: *\n" + filler + b"Disallow: /late\n"
    assert len(long) > 500 * 1024
    assert read_robots(long, "x").opt_out("http://h/late") == ROBOTS_TXT
    longer = long.ljust(FILE_BYTES, b"\n") + b"Disallow: /beyond\n"
    assert read_robots(longer, "x").opt_out("http://h/beyond") is None


@pytest.mark.parametrize(
    ("text", "delay"),
    [
        ("User-agent: *\nCrawl-delay: 2.5\n", 2.5),
        ("User-agent: *\nCrawl-delay: 86400\n", 86400.0),
        ("User-agent: other\nCrawl-delay: 9\n", 0.0),
        ("User-agent: *\nCrawl-delay: 9\n\nUser-agent: us\nDisallow: /a\n", 0.0),
        ("User-agent: *\nCrawl-delay: soon\n", 0.0),
        ("User-agent: *\nCrawl-delay: -1\nCrawl-delay: nan\nCrawl-delay: inf\n", 0.0),
        ("User-agent: *\nDisallow:\n", 0.0),
    ],
)
def test_the_delay_that_is_asked_for(text: str, delay: float) -> None:
    assert read_robots(text.encode(), "us").crawl_delay_s == delay


def test_a_group_of_a_delay_alone_ends_where_the_next_begins() -> None:
    text = b"User-agent: *\nCrawl-delay: 3\n\nUser-agent: other\nDisallow: /\n"
    robots = read_robots(text, "us")
    assert robots.crawl_delay_s == 3 and robots.opt_out("http://h/a") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("User-agent: *\nContent-Usage: train-ai=n\n", USAGE_IN_ROBOTS_TXT),
        ("User-agent: *\nContent-Usage: /pictures/ train-ai=n\n", USAGE_IN_ROBOTS_TXT),
        ("User-agent: *\nContent-Usage: /other/ train-ai=n\n", None),
        ("User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /pictures/ train-ai=y\n", None),
        ("User-agent: other\nContent-Usage: train-ai=n\n", None),
        ("User-agent: *\nContent-Usage: search=n\n", None),
        ("User-agent: *\nContent-Usage: train-ai=n\nDisallow: /pictures\n", ROBOTS_TXT),
        ("User-agent: *\nAllow: /pictures/\nContent-Usage: train-ai=n\n", USAGE_IN_ROBOTS_TXT),
        ("User-agent: one\nContent-Usage: train-ai=n\nUser-agent: us\nDisallow: /b\n", None),
    ],
)
def test_content_usage_of_robots_txt(text: str, reason: str | None) -> None:
    assert read_robots(text.encode(), "us").opt_out("https://h/pictures/a.jpg") == reason


RESERVED = {"location": "/", "tdm-reservation": 1}


@pytest.mark.parametrize(
    ("said", "reserved", "free"),
    [
        ([RESERVED], ("/", "/a.jpg"), ()),
        ([{"location": "/", "tdm-reservation": "1"}], ("/a.jpg",), ()),
        ([{"location": "/", "tdm-reservation": 0}], (), ("/a.jpg",)),
        ([{"location": "*", "tdm-reservation": 1}], ("/", "/a/b"), ()),
        (RESERVED, ("/a.jpg",), ()),
        (
            [{"location": "/free/*", "tdm-reservation": 0}, RESERVED | {"tdm-policy": "/p.json"}],
            ("/a.jpg", "/robots.jpg"),
            ("/free/a.jpg",),
        ),
        ([{"location": "/*.jpg$", "tdm-reservation": 1}], ("/x/a.jpg",), ("/a.jpg?x", "/a.png")),
        ([{"location": "pictures", "tdm-reservation": 1}], ("/pictures/a",), ("/a",)),
        ([{"location": "/b%c3%bc#1", "tdm-reservation": 1}], ("/b%C3%BC%231",), ("/b",)),
        # What is no entry takes nothing else with it.
        ([3, {}, {"location": 3}, {"location": "/a"}, {"location": "/a\nallow: /",
          "tdm-reservation": 1}, {"location": "/c", "tdm-reservation": 1}], ("/c",), ("/a", "/")),
        ("no list", (), ("/a.jpg",)),
        (None, (), ("/a.jpg",)),
    ],
)  # fmt: skip
def test_tdmrep(said: object, reserved: tuple[str, ...], free: tuple[str, ...]) -> None:
    rules = read_tdmrep(json.dumps(said).encode())
    found = {path: rules.opt_out(f"https://example.com{path}") for path in (*reserved, *free)}
    assert found == dict.fromkeys(reserved, TDMREP) | dict.fromkeys(free)


@pytest.mark.parametrize("data", [b"", b"<html>", b"[" * 100_000, b"\xff\xfe", b"[{}"])
def test_what_is_no_tdmrep_says_nothing(data: bytes) -> None:
    assert read_tdmrep(data).opt_out("https://example.com/a.jpg") is None
