"""A hostile web: each row its own reason, nothing private fetched, nothing hangs."""

from __future__ import annotations

import asyncio
import gzip
import socket
import zlib
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from loopback import Loopback, serving
from loopback_client import answering, fetch, first, policy, redirect_to
from name_server import GONE, SILENT, answering_names

from gristmill.pipelines.download import names as names_module
from gristmill.pipelines.download.address import GuardedResolver, refusal
from gristmill.pipelines.download.http_client import FetchPolicy
from gristmill.pipelines.download.names import Names

# Every way to say 127.0.0.1 or ::1 that some resolver or client takes.
LOOPBACKS = (
    "127.0.0.1", "localhost", "LOCALHOST", "127.1", "127.0.1", "2130706433", "0x7f000001",
    "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "127.255.255.254", "0.0.0.0", "0",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
    "[::127.0.0.1]", "[64:ff9b::7f00:1]", "user:pass@127.0.0.1", "%31%32%37.0.0.1",
    "①②⑦.0.0.1", "127。0。0。1",
)  # fmt: skip
PRIVATE = {
    "10.0.0.1": "private address",
    "172.16.3.4": "private address",
    "192.168.1.1": "private address",
    "[fc00::1]": "private address",
    "[fec0::1]": "private address",
    "100.64.0.1": "reserved address",
    "169.254.1.1": "link-local address",
    "[fe80::1]": "link-local address",
    "169.254.169.254": "metadata address",
    "0xa9fea9fe": "metadata address",
    "2852039166": "metadata address",
    "[::ffff:169.254.169.254]": "metadata address",
    "[fd00:ec2::254]": "metadata address",
    "224.0.0.1": "multicast address",
    "[ff02::1]": "multicast address",
    "240.0.0.1": "private address",
    "255.255.255.255": "private address",
    "[2002:a00:1::]": "private address",
}


def reasons(rules: FetchPolicy, *urls: str) -> list[str | None]:
    return [fetched.error for fetched in fetch(rules, *urls)]


def test_no_spelling_of_loopback_reaches_a_server(server: Loopback) -> None:
    with serving() as canary:
        urls = [f"http://{host}:{canary.port}/x.jpg" for host in LOOPBACKS]
        server.pages = {f"/{i}": redirect_to(url) for i, url in enumerate(urls)}
        found = reasons(policy(server), *urls)
        hops = reasons(policy(server), *[server.url(f"/{i}") for i in range(len(urls))])
        assert canary.hits == []
        assert fetch(policy(canary), canary.url("/x.jpg"))[0].error == "http 404", "it does listen"
    unread = {"invalid url", "name not resolved", "invalid redirect"}
    # Whoever allows the host of the list would allow the wrong one: a hop says so.
    hopped = "redirect to a loopback address"
    assert set(found) <= {*unread, "loopback address"} and set(hops) <= {*unread, hopped}
    assert found.count("loopback address") >= 18 and hops.count(hopped) >= 18


class RecordingConnector(aiohttp.TCPConnector):
    """Records every address it is to connect to, and connects to none beyond loopback."""

    asked: list[str] = []  # noqa: RUF012

    async def _wrap_create_connection(self, *args: Any, addr_infos: Any, **kwargs: Any) -> Any:
        self.asked += [info[4][0] for info in addr_infos]
        if any(info[4][0] != "127.0.0.1" for info in addr_infos):
            raise OSError("this test sends nothing beyond loopback")
        return await super()._wrap_create_connection(*args, addr_infos=addr_infos, **kwargs)


def test_private_addresses_are_never_connected_to(server: Loopback) -> None:
    rules = policy(server)
    RecordingConnector.asked.clear()

    def connector() -> RecordingConnector:
        return RecordingConnector(resolver=GuardedResolver(rules.allow_hosts))

    urls = [f"http://{host}/latest/meta-data/" for host in PRIVATE]
    server.pages = {f"/{i}": redirect_to(url) for i, url in enumerate(urls)}
    direct = fetch(rules, *urls, connector=connector)
    hops = fetch(rules, *[server.url(f"/{i}") for i in range(len(urls))], connector=connector)
    assert [one.error for one in direct] == list(PRIVATE.values())
    assert [one.error for one in hops] == [f"redirect to a {reason}" for reason in PRIVATE.values()]
    assert set(RecordingConnector.asked) == {"127.0.0.1"}, "only the test's own server"


def test_a_name_is_refused_by_what_it_resolves_to(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"evil.test": ["10.1.2.3"], "mixed.test": ["93.184.216.34", "127.0.0.1"]}

    async def addresses(self: Any, name: str) -> list[Any]:
        return [(socket.AF_INET, address) for address in answers[name]]

    monkeypatch.setattr(Names, "addresses", addresses)
    urls = [f"http://{name}/x.jpg" for name in answers]
    assert reasons(policy(server), *urls) == ["private address", "loopback address"]


def test_only_ports_of_the_web_are_asked_unless_they_are_named(server: Loopback) -> None:
    with serving() as other:
        other.pages["/x"] = b"data"
        there = other.url("/x", "localhost")
        server.pages["/hop"] = redirect_to(there)
        rules = policy(server, ports="web")
        assert reasons(rules, there, server.url("/hop")) == [
            "port not allowed", "redirect to a port not allowed",
        ]  # fmt: skip
        # An address is looked at before its port, and one port is no other.
        assert reasons(rules, other.url("/x")) == ["loopback address"]
        named = policy(server, ports="web", allow_hosts=(server.host, f"localhost:{server.port}"))
        assert reasons(named, there) == ["port not allowed"]
        assert other.hits == []
        for allowed in (f"localhost:{other.port}", "localhost"):
            rules = policy(server, ports="web", allow_hosts=(server.host, allowed))
            assert reasons(rules, there, server.url("/hop")) == [None, None]


def test_dead_names_take_no_living_ones_with_them(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seconds less: how long a silent name takes is c-ares' matter.
    monkeypatch.setattr(names_module, "_FIRST_TRY_S", 0.2)
    monkeypatch.setattr(names_module, "_TRIES", 2)
    server.pages["/x"] = b"data"
    kinds = [(GONE, SILENT, "a", "b", "c")[i % 5] for i in range(200)]
    names = [f"{kind}{i}.test:{server.port}" for i, kind in enumerate(kinds)]
    with answering_names() as servers:
        # What waits for a connection here, 200 at once, has its deadline running.
        fields = {"connections": 8, "timeout_s": 30.0, "allow_hosts": tuple(names)}
        rules = policy(server, name_servers=(servers.place,), **fields)
        found = fetch(rules, *[f"http://{name}/x" for name in names])
        lost = [one.error for one in found]
        again = len(servers.asked)
    wanted = ["name not resolved" if kind in (GONE, SILENT) else None for kind in kinds]
    assert lost == wanted
    # A name that does not exist is asked for once a family; its rows are not tried again.
    assert sum(name.startswith(GONE) for name in servers.asked) == 2 * kinds.count(GONE)
    assert again == len(servers.asked)


def test_the_port_of_an_allowed_host_is_part_of_the_permission(server: Loopback) -> None:
    with serving() as other:
        other.pages["/x"] = b"data"
        assert reasons(policy(server), other.url("/x")) == ["loopback address"]
        assert fetch(FetchPolicy(allow_hosts=("127.0.0.1",)), other.url("/x"))[0].data == b"data"


def test_what_is_no_http_url_is_not_fetched(server: Loopback) -> None:
    urls = {
        "file:///etc/passwd": "scheme not allowed",
        "ftp://example.com/x.jpg": "scheme not allowed",
        "gopher://example.com/": "scheme not allowed",
        "data:image/png;base64,AAAA": "scheme not allowed",
        "javascript:alert(1)": "scheme not allowed",
        "": "invalid url",
        "x.jpg": "invalid url",
        "//example.com/x.jpg": "invalid url",
        "http://": "invalid url",
        "http://[::1": "invalid url",
        "http://example.com:99999/": "invalid url",
    }
    assert reasons(policy(server), *urls) == list(urls.values())


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(20_000))


async def drip(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.05)


def gzipped(size: int) -> Any:
    async def answer(request: web.Request) -> web.Response:
        body = gzip.compress(bytes(size), mtime=0)
        return web.Response(body=body, headers={"Content-Encoding": "gzip"})

    return answer


async def announced(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "999999999"})
    await response.prepare(request)
    return response


async def brotli(request: web.Request) -> web.Response:
    return web.Response(body=b"x", headers={"Content-Encoding": "br"})


async def noai(request: web.Request) -> web.Response:
    return web.Response(body=b"x", headers={"X-Robots-Tag": "noai"})


def test_every_transfer_is_bounded(server: Loopback) -> None:
    pages: dict[str, tuple[Any, str | None]] = {
        "/endless": (endless, "too large"),
        "/announced": (announced, "too large"),
        "/drip": (drip, "timed out"),
        "/bomb": (gzipped(50_000_000), "decompression bomb"),
        "/gzip": (gzipped(1000), None),
        "/brotli": (brotli, None),
        "/noai": (noai, "disallowed by robots header"),
        "/fine": (b"data", None),
    }
    server.pages = {path: page for path, (page, _) in pages.items()}
    server.pages["/loop"] = redirect_to("/loop")
    server.pages["/long"] = redirect_to("/fine", 308)
    found = fetch(policy(server), *[server.url(path) for path in (*pages, "/loop", "/long", "/no")])
    expected = [reason for _, reason in pages.values()]
    assert [one.error for one in found] == [*expected, "too many redirects", None, "http 404"]
    assert found[4].data == bytes(1000) and found[-2].data == b"data"


def test_an_encoding_nobody_asked_for_is_undone_or_left_to_the_decoder(server: Loopback) -> None:
    picture = b"\xff\xd8\xff picture"
    server.pages = {
        "/gzip": answering(body=gzip.compress(picture, mtime=0), Content_Encoding="gzip"),
        "/deflate": answering(body=zlib.compress(picture), Content_Encoding="Deflate"),
        "/not-gzip": answering(body=picture, Content_Encoding="gzip"),
        "/not-deflate": answering(body=picture, Content_Encoding="deflate"),
        "/brotli": answering(body=picture, Content_Encoding="br"),
        "/binary": answering(body=picture, Content_Encoding="binary"),
        "/utf": answering(body=picture, Content_Encoding="utf-8"),
        "/empty": answering(body=b"", Content_Encoding="gzip"),
    }
    found = fetch(policy(server), *[server.url(path) for path in server.pages])
    assert [one.data for one in found] == [*[picture] * 7, b""]


def test_any_answer_of_success_is_one_if_it_is_whole(server: Loopback) -> None:
    pages: dict[str, tuple[Any, str | None]] = {
        "/created": (answering(201), None),
        "/proxied": (answering(203), None),
        "/ranged": (answering(206, Content_Range="bytes 0-3/4"), None),
        "/unsaid": (answering(206), None),
        "/begin": (answering(206, Content_Range="bytes 0-3/400"), "http 206"),
        "/end": (answering(206, Content_Range="bytes 396-399/400"), "http 206"),
        "/nothing": (answering(304), "http 304"),
    }
    server.pages = {path: page for path, (page, _) in pages.items()}
    found = fetch(policy(server), *[server.url(path) for path in pages])
    assert [one.error for one in found] == [reason for _, reason in pages.values()]


def test_a_long_head_is_read(server: Loopback) -> None:
    most = dict.fromkeys([f"X-{number}" for number in range(300)], "x")
    server.pages = {
        "/policy": answering(Content_Security_Policy="x" * 60_000),
        "/many": answering(**most),
        "/endless": answering(Set_Cookie="x" * 70_000),
    }
    found = fetch(policy(server), *[server.url(path) for path in server.pages])
    assert [one.error for one in found] == [None, None, "broken http response"]


def test_what_is_asked_for_is_what_was_given(server: Loopback) -> None:
    asked = ["/a%27b.jpg?k=x%40y%2Fz&Sig=q%3A", "/%7Ec+d%2f.jpg?", "/e//./f.jpg?a[]=%c3%a9"]
    signed = "/signed%2Fg.jpg?Signature=a%2Bb%3D&Key=%41"
    server.pages["/hop"] = redirect_to(signed)
    fetch(policy(server, connections=1), *[server.url(path) for path in (*asked, "/hop")])
    assert set(server.asked) == {*asked, "/hop", signed}


def test_looking_a_name_up_takes_nothing_from_the_transfer(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.pages["/x"] = b"data"

    async def ask(self: Names, name: str) -> Any:
        await asyncio.sleep(0.6)
        return ((socket.AF_INET, "127.0.0.1"),)

    monkeypatch.setattr(Names, "_ask", ask)
    rules = policy(server, timeout_s=0.5, allow_hosts=("localhost",))
    assert reasons(rules, server.url("/x", "localhost")) == [None]


def test_only_what_can_heal_is_tried_again(server: Loopback) -> None:
    server.pages = {
        "/busy": first(server, 429, {"Retry-After": "0"}),
        "/broken": first(server, 503),
        "/gone": first(server, 410, {"Retry-After": "5"}),
    }
    found = fetch(policy(server), *[server.url(path) for path in server.pages])
    assert [one.error for one in found] == [None, None, "http 410"]
    assert [server.hits.count(path) for path in server.pages] == [2, 2, 1]


def test_nobody_listening_is_refused(server: Loopback) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rules = policy(server, allow_hosts=(f"127.0.0.1:{port}",))
    assert reasons(rules, f"http://127.0.0.1:{port}/x") == ["connection refused"]


def test_an_honest_user_agent_and_no_credentials(server: Loopback) -> None:
    seen: dict[str, str] = {}

    async def answer(request: web.Request) -> web.Response:
        seen.update(request.headers)
        return web.Response(body=b"x", headers={"Set-Cookie": "a=b"})

    server.pages["/x"] = answer
    url = server.url("/x").replace("http://", "http://user:secret@")
    fetch(policy(server), url, url)
    assert seen["User-Agent"].startswith("gristmill/")
    assert "Authorization" not in seen and "Cookie" not in seen


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111"])
def test_public_addresses_are_not_refused(address: str) -> None:
    assert refusal(address) is None


def test_who_waits_for_a_connection_of_ours_is_not_timed_out(server: Loopback) -> None:
    """Two at a time, each well within its time, and all of them beyond it: the others waited in the
    pool of connections with their clocks running, and ended as `timed out`."""

    async def slowly(request: web.Request) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response(body=b"data")

    server.pages = {f"/{i}": slowly for i in range(24)}
    urls = [server.url(path) for path in server.pages]
    for limits in ({"per_host": 2}, {"connections": 2}):
        found = fetch(policy(server, retries=0, **limits), *urls)
        assert {one.error for one in found} == {None}
        assert len(server.hits) == len(urls)
        server.hits.clear()
