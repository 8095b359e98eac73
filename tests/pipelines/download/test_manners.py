"""A loopback web that says in every form what it wants, and each row with its reason."""

from __future__ import annotations

import asyncio
import email.utils
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from loopback import Loopback, serving
from loopback_client import answering, fetch, first, policy, redirect_to

from gristmill.pipelines.download import fetching, pace, site_wishes
from gristmill.pipelines.download.fetch_failures import retry_after
from gristmill.pipelines.download.fetch_policy import NOT_ASKED, USER_AGENT, Fetched, is_transient
from gristmill.pipelines.download.fetching import Fetching
from gristmill.pipelines.download.http_client import Fetcher
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.download.pace import LocalPace
from gristmill.pipelines.opt_outs import OPT_OUTS
from gristmill.pipelines.schema import FAILED_TO_DOWNLOAD
from gristmill.pipelines.sources.row_builder import RowBuilder, url_row


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports are used again: what one test's host wished is no other's."""
    monkeypatch.setattr(pace, "_here", LocalPace())
    monkeypatch.setattr(site_wishes, "_known", site_wishes._Known())


def said(server: Loopback, *paths: str, **fields: Any) -> list[str | None]:
    """The reason of each row; one row at a time."""
    rules = policy(server, **fields)

    async def run() -> list[str | None]:
        async with Fetcher(rules) as client:
            return [(await client.fetch(server.url(path))).error for path in paths]

    return asyncio.run(run())


HEADERS = {
    **{
        f"/{word}": ({"X-Robots-Tag": word}, "disallowed by robots header")
        for word in ("noai", "noimageai", "noml", "noindex", "noimageindex", "none")
    },
    "/usage": ({"Content-Usage": "search=y, train-ai=n"}, "disallowed by content-usage header"),
    "/genai": ({"Content-Usage": "train-genai=n"}, "disallowed by content-usage header"),
    "/tdm": ({"TDM-Reservation": "1"}, "disallowed by tdm-reservation header"),
    "/other": ({"X-Robots-Tag": "otherbot: noai", "Content-Usage": "train-ai=y",
                "TDM-Reservation": "0"}, None),
}  # fmt: skip


def test_each_form_in_a_header_has_its_reason(server: Loopback) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(body=b"data", headers=HEADERS[request.path][0])

    server.pages = dict.fromkeys(HEADERS, page)
    assert said(server, *HEADERS) == [reason for _, reason in HEADERS.values()]
    assert said(server, *HEADERS, opt_out="off") == [None] * len(HEADERS)
    assert server.hits.count("/noai") == 2, "a wish is asked for once"


def test_opt_outs_are_final_and_what_could_not_be_read_is_not() -> None:
    stage = Download()
    assert not any(stage.is_retryable(FAILED_TO_DOWNLOAD, reason) for reason in OPT_OUTS)
    assert all(stage.is_retryable(FAILED_TO_DOWNLOAD, reason) for reason in NOT_ASKED)


def test_the_files_of_a_host_are_read_once_and_only_where_asked_for(server: Loopback) -> None:
    tdmrep = [{"location": "/reserved/", "tdm-reservation": 1}]
    server.pages = {
        "/robots.txt": b"User-agent: gristmill\nDisallow: /private\nContent-Usage: /u train-ai=n\n",
        "/.well-known/tdmrep.json": json.dumps(tdmrep).encode(),
        "/hop": redirect_to("/private/b"),
        **dict.fromkeys(("/a", "/private/b", "/reserved/c", "/u/d"), b"data"),
    }
    rows = ("/a", "/private/b", "/reserved/c", "/u/d", "/hop")
    assert said(server, *rows) == [None] * 5
    assert "/robots.txt" not in server.hits
    server.hits.clear()
    for _ in range(2):
        assert said(server, *rows, opt_out="robots") == [
            None, "disallowed by robots.txt", "disallowed by tdmrep.json",
            "disallowed by content-usage of robots.txt", "disallowed by robots.txt",
        ]  # fmt: skip
    assert server.hits == ["/robots.txt", "/.well-known/tdmrep.json", "/a", "/hop", "/a", "/hop"]
    # Another name has a group of its own.
    assert said(server, "/private/b", opt_out="robots", user_agent="mine/1.0") == [None]


def status(code: int, **headers: str) -> Any:
    return answering(code, b"", **headers)


ROBOTS: dict[str, tuple[Any, str | None]] = {
    # RFC 9309, 2.3.1: what is not there forbids nothing, what cannot be read forbids all.
    "200": (answering(200, b"User-agent: *\nDisallow: /b"), None),
    "204": (status(204), None),
    "401": (status(401), None),
    "403": (status(403), None),
    "404": (status(404), None),
    "410": (status(410), None),
    "429": (status(429), "robots.txt unreachable"),
    "500": (status(500), "robots.txt unreachable"),
    "503": (status(503), "robots.txt unreachable"),
    "a redirect to nowhere": (status(302), None),
    "round and round": (redirect_to("/robots.txt"), None),
    "inside": (redirect_to("http://10.0.0.1/robots.txt"), "robots.txt unreachable"),
    "no such scheme": (redirect_to("ftp://example.com/robots.txt"), "robots.txt unreachable"),
    "noai itself": (answering(200, b"", X_Robots_Tag="noai"), None),
}


@pytest.mark.parametrize("kind", ROBOTS)
def test_a_robots_txt_that_does_not_come(server: Loopback, kind: str) -> None:
    page, reason = ROBOTS[kind]
    server.pages = {"/robots.txt": page, "/a": b"data"}
    found = said(server, "/a", "/a", opt_out="robots", max_redirects=0)
    assert found == [reason, reason]
    assert reason is None or ("/a" not in server.hits and is_transient(reason))


def test_five_redirects_to_another_host_are_followed_and_checked(server: Loopback) -> None:
    with serving() as other:
        other.pages["/rules"] = b"User-agent: *\nDisallow: /a"
        server.pages = {
            "/robots.txt": redirect_to("/1"),
            **{f"/{i}": redirect_to(f"/{i + 1}") for i in range(1, 4)},
            "/4": redirect_to(other.url("/rules")),
            "/a": b"data",
        }
        both = (server.host, other.host)
        assert said(server, "/a", opt_out="robots", allow_hosts=both) == [
            "disallowed by robots.txt"
        ]
        # Where the second host must not be reached, nobody knows what it says.
        assert said(server, "/a", opt_out="robots") == ["robots.txt unreachable"]
        assert len(other.hits) == 1


def test_a_tdmrep_that_does_not_come(server: Loopback) -> None:
    server.pages = {"/.well-known/tdmrep.json": status(500), "/a": b"data"}
    assert said(server, "/a", opt_out="robots") == ["tdmrep.json unreachable"]
    server.pages["/.well-known/tdmrep.json"] = b"[" + b" " * 600_000 + b"]"
    assert said(server, "/a", opt_out="robots") == ["tdmrep.json unreachable"]
    server.pages["/.well-known/tdmrep.json"] = b"<html>"
    assert said(server, "/a", opt_out="robots") == [None]


async def no_end(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b"User-agent: *\nDisallow: /a\n")
    while True:
        await response.write(b"#" * 50_000 + b"\n")


async def slow(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"#\n")
        await asyncio.sleep(0.05)


def test_files_of_hosts_keep_to_the_limits_of_transfers(server: Loopback) -> None:
    server.pages = {"/robots.txt": no_end, "/a": b"data", "/b": b"data"}
    # As much as the RFC asks for is read, whatever a picture may have.
    rules = {"opt_out": "robots", "max_bytes": 1000}
    assert said(server, "/a", "/b", **rules) == ["disallowed by robots.txt", None]
    server.pages["/robots.txt"] = slow
    fields = rules | {"timeout_s": 0.3, "retries": 0, "user_agent": "another"}
    assert said(server, "/b", **fields) == ["robots.txt unreachable"]


def test_a_host_is_paused_for_all_of_its_rows(server: Loopback) -> None:
    with serving() as other:
        server.pages = {"/busy": first(server, 429, {"Retry-After": "1"}), "/x": b"data"}
        other.pages["/x"] = b"data"
        stamps: list[float] = []

        async def seen(request: web.Request) -> web.Response:
            stamps.append(time.monotonic())
            return web.Response(body=b"data")

        server.pages["/x"] = seen
        begun = time.monotonic()
        rules = policy(server, allow_hosts=(server.host, other.host))

        async def run() -> list[Any]:
            async with Fetcher(rules) as client:
                busy = asyncio.create_task(client.fetch(server.url("/busy")))
                while not client.turns.has_paused:
                    await asyncio.sleep(0)
                assert client.must_wait(server.url("/x"))
                assert not client.must_wait(other.url("/x"))
                rest = [client.fetch(one.url("/x")) for one in (server, other)]
                return list(await asyncio.gather(busy, *rest))

        assert [one.error for one in asyncio.run(run())] == [None, None, None]
        assert stamps[0] - begun >= 0.9


@pytest.mark.parametrize("code", [429, 503])
def test_a_pause_too_long_costs_the_rows_of_that_host_alone(server: Loopback, code: int) -> None:
    with serving() as other:
        server.pages = {"/busy": status(code, Retry_After="86400"), "/x": b"data"}
        other.pages["/x"] = b"data"
        assert said(server, "/busy", "/x", "/busy") == [
            f"http {code}", "retry-after too long", "retry-after too long",
        ]  # fmt: skip
        assert server.hits == ["/busy"]
        assert said(other, "/x") == [None]


def test_a_delay_too_long_costs_the_rows_of_that_host_alone(server: Loopback) -> None:
    server.pages = {"/robots.txt": b"User-agent: *\nCrawl-delay: 86400\n", "/x": b"data"}
    found = said(server, "/x", "/x", opt_out="robots")
    assert found == ["crawl-delay too long"] * 2 and "/x" not in server.hits
    # A rate of one's own may be as slow as one likes.
    slow = {"opt_out": "robots", "per_host_rate": 1e-4, "max_host_wait_s": 1e5}
    server.pages["/robots.txt"] = b""
    assert said(server, "/x", user_agent="other", retries=0, per_host_rate=1e6) == [None]
    assert slow["per_host_rate"] > 0


def test_each_request_to_a_host_takes_a_turn_redirects_and_its_files_as_well(
    server: Loopback,
) -> None:
    stamps: list[float] = []

    async def seen(request: web.Request) -> web.Response:
        stamps.append(time.monotonic())
        if request.path == "/hop":
            return web.Response(status=302, headers={"Location": "/x"})
        return web.Response(status=404 if "txt" in request.path or "json" in request.path else 200)

    paths = ("/robots.txt", "/.well-known/tdmrep.json", "/hop", "/x")
    server.pages = dict.fromkeys(paths, seen)
    rate = 20.0
    found = fetch(
        policy(server, opt_out="robots", per_host_rate=rate),
        *[server.url(path) for path in ("/hop", "/x", "/x", "/x")],
    )
    assert [one.error for one in found] == [None] * 4
    # Two files, three pictures, and a redirect with what it leads to.
    assert len(stamps) == 7
    assert stamps[-1] - stamps[0] >= 0.7 * 6 / rate


def test_rows_of_a_slow_host_keep_no_others_waiting(server: Loopback) -> None:
    """With one transfer at a time, what need not wait comes first."""
    order: list[int] = []

    async def done(rows: list[int], fetched: Fetched) -> None:
        order.extend(rows)

    async def nothing() -> None:
        pass

    with serving() as quick:
        urls = [host.url(f"/{i}") for host in (server, quick) for i in range(3)]
        pace.pace_of_process().pause(f"127.0.0.1:{server.port}", 1.0)
        rules = policy(server, connections=1, allow_hosts=(server.host, quick.host))
        work = Fetching(rules, threading.Event(), done, nothing, nothing)
        asyncio.run(work.run([([i], url) for i, url in enumerate(urls)]))
    assert set(order[:3]) == {3, 4, 5} and set(order[3:]) == {0, 1, 2}


def test_rows_that_wait_are_called_off_at_once(server: Loopback) -> None:
    pace.pace_of_process().pause(f"127.0.0.1:{server.port}", 50.0)
    with serving() as quick:
        rows = RowBuilder("list")
        for host in (server, quick):
            rows.add(url_row(host.url("/x")))
        stage = Download(allow_hosts=(server.host, quick.host))
        made = stage.map(next(rows.take(all_rows=True)))
        assert next(made)["error"].to_pylist() == ["http 404"]
        begun = time.monotonic()
        made.close()
        # It would be 50 s.
        assert time.monotonic() - begun < 40


def test_who_waits_for_a_host_gives_signs_of_life(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_SIGN_S", 0.0)
    monkeypatch.setattr(fetching, "_LOOK_S", 0.01)
    pace.pace_of_process().pause(f"127.0.0.1:{server.port}", 0.5)
    rows = RowBuilder("list")
    rows.add(url_row(server.url("/x")))
    table = next(rows.take(all_rows=True))
    made = list(Download(allow_hosts=(server.host,)).map(table))
    assert len(made) > 1 and [len(one) for one in made[:-1]] == [0] * (len(made) - 1)
    assert made[-1]["error"].to_pylist() == ["http 404"]
    assert len(Download(allow_hosts=(server.host,))(table)) == 1


NOW = 1_900_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "120"}, 120.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": email.utils.formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"Retry-After": email.utils.formatdate(NOW - 30, usegmt=True)}, 0.0),
        # The server's own clock is an hour off.
        (
            {
                "Retry-After": email.utils.formatdate(NOW + 3630, usegmt=True),
                "Date": email.utils.formatdate(NOW + 3600, usegmt=True),
            },
            30.0,
        ),
        ({"Retry-After": "9" * 400}, 1e9),
        ({}, None),
        *[({"Retry-After": text}, None) for text in ("", "-1", "nan", "inf", "1e3", "soon", "١")],
    ],
)
def test_how_long_an_answer_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


def test_who_respects_nothing_does_not_say_so(server: Loopback) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers["User-Agent"])
        return web.Response(body=b"x")

    server.pages["/x"] = answer
    for fields in ({}, {"opt_out": "off"}, {"opt_out": "off", "user_agent": "mine"}):
        said(server, "/x", **fields)
    assert seen[0] == USER_AGENT and "respects" in seen[0]
    assert "respects" not in seen[1] and seen[1].startswith("gristmill/") and seen[2] == "mine"


def test_a_setting_that_is_no_more_says_what_to_write() -> None:
    from gristmill.dags.recipes.image_text import image_text
    from gristmill.dags.settings import apply_settings
    from gristmill.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match=r"no field 'robots'; .* opt_out=off"):
        apply_settings(image_text(path="urls.csv"), ["download.robots=[]"])
