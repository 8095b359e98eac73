"""Names: each asked for once, whoever waits; those that nobody answers for end by themselves."""

from __future__ import annotations

import asyncio
import socket

import pytest
from name_server import GONE, answering_names

from gristmill.pipelines.download.names import Address, Names


def looked_up(place: str, *names: str) -> list[tuple[Address, ...] | BaseException]:
    async def run() -> list[tuple[Address, ...] | BaseException]:
        known = Names((place,))
        try:
            tasks = [known.addresses(name) for name in names]
            return list(await asyncio.gather(*tasks, return_exceptions=True))
        finally:
            await known.close()

    return asyncio.run(run())


def test_a_name_is_asked_for_once_however_it_is_spelt() -> None:
    with answering_names() as server:
        found = looked_up(server.place, "a.test", "A.Test", "a.test.", "a.test")
    assert found == [((socket.AF_INET, "127.0.0.1"),)] * 4
    # IPv4 and IPv6.
    assert len(server.asked) == 2


def test_that_there_is_no_such_name_is_remembered() -> None:
    with answering_names() as server:
        found = looked_up(server.place, *[f"{GONE}.test"] * 3)
    assert all(isinstance(error, socket.gaierror) for error in found)
    assert len(server.asked) == 2


@pytest.mark.parametrize("name", ["a..test", "x" * 64 + ".test", "x" * 300, ""])
def test_what_cannot_be_a_name_is_none(name: str) -> None:
    with answering_names() as server:
        (found,) = looked_up(server.place, name)
    assert isinstance(found, socket.gaierror) and server.asked == []


def test_who_gives_up_does_not_end_it_for_others() -> None:
    async def run(place: str) -> tuple[Address, ...]:
        known = Names((place,))
        hasty = asyncio.create_task(known.addresses("a.test"))
        await asyncio.sleep(0)
        hasty.cancel()
        try:
            return await known.addresses("a.test")
        finally:
            await known.close()

    with answering_names() as server:
        assert asyncio.run(run(server.place)) == ((socket.AF_INET, "127.0.0.1"),)
