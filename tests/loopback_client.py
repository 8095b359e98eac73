"""Our client asks a loopback web, quickly, and pages that answer as told."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from loopback import Loopback

from gristmill.pipelines.download.fetch_policy import Fetched, FetchPolicy
from gristmill.pipelines.download.http_client import Fetcher


def policy(server: Loopback, **fields: Any) -> FetchPolicy:
    quick = {
        "timeout_s": 2.0,
        "backoff_s": 0.01,
        "retries": 1,
        "max_bytes": 100_000,
        "ports": "any",
    }
    return FetchPolicy(**{"allow_hosts": (server.host,), **quick, **fields})


def fetch(rules: FetchPolicy, *urls: str, connector: Any = None) -> list[Fetched]:
    async def run() -> list[Fetched]:
        made = connector() if connector else None
        async with Fetcher(rules, made) as fetcher:
            return list(await asyncio.gather(*[fetcher.fetch(url) for url in urls]))

    return asyncio.run(run())


def redirect_to(url: str, status: int = 302) -> Any:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": url})

    return answer


def answering(status: int = 200, body: bytes = b"data", **headers: str) -> Any:
    async def answer(request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=body, headers=named)

    return answer


def first(server: Loopback, status: int, headers: dict[str, str] | None = None) -> Any:
    """A page that answers so once, and then with data."""

    async def answer(request: web.Request) -> web.Response:
        if server.hits.count(request.path) == 1:
            return web.Response(status=status, headers=headers)
        return web.Response(body=b"data")

    return answer
