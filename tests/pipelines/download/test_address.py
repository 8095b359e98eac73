"""Addresses: the public internet and what the user names, however it is spelt."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gristmill.pipelines.download.address import (
    AddressRefused,
    GuardedResolver,
    check_literal,
    check_port,
    is_allowed,
    refusal,
)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("8.8.8.8", None),
        ("2606:4700:4700::1111", None),
        ("10.1.2.3", "private address"),
        ("172.16.0.1", "private address"),
        ("192.168.255.1", "private address"),
        ("fd00::1", "private address"),
        ("127.0.0.1", "loopback address"),
        ("127.9.9.9", "loopback address"),
        ("0.0.0.0", "loopback address"),
        ("::1", "loopback address"),
        ("::", "loopback address"),
        ("169.254.7.7", "link-local address"),
        ("fe80::1%eth0", "link-local address"),
        ("169.254.169.254", "metadata address"),
        ("fd00:ec2::254", "metadata address"),
        ("100.100.100.200", "metadata address"),
        ("168.63.129.16", "metadata address"),
        ("192.0.0.192", "metadata address"),
        ("::ffff:168.63.129.16", "metadata address"),
        ("64:ff9b:1::808:808", "private address"),
        ("64:ff9b:1:ffff::1", "private address"),
        ("64:ff9b:1:808:8:800::", "private address"),
        ("224.0.0.1", "multicast address"),
        ("ff02::1", "multicast address"),
        ("100.64.0.1", "reserved address"),
        ("240.0.0.1", "private address"),
        ("fec0::1", "private address"),
        ("not an address", "invalid address"),
        # IPv4 inside IPv6: mapped, NAT64, 6to4, compatible.
        ("::ffff:127.0.0.1", "loopback address"),
        ("::ffff:10.0.0.1", "private address"),
        ("64:ff9b::7f00:1", "loopback address"),
        ("2002:7f00:1::", "loopback address"),
        ("::ffff:8.8.8.8", None),
        ("64:ff9b::808:808", None),
    ],
)
def test_why_an_address_is_refused(address: str, reason: str | None) -> None:
    assert refusal(address) == reason


@pytest.mark.parametrize(
    ("host", "port", "entries", "allowed"),
    [
        ("a.test", 80, ["a.test"], True),
        ("A.Test", 8080, ["a.test"], True),
        ("a.test", 80, ["a.test:80"], True),
        ("a.test", 81, ["a.test:80"], False),
        ("[::1]", 80, ["::1"], True),
        ("::1", 80, ["[::1]:80"], True),
        ("b.a.test", 80, ["a.test"], False),
        ("a.test", 80, [], False),
    ],
)
def test_an_entry_with_a_port_allows_that_port_alone(
    host: str, port: int, entries: list[str], allowed: bool
) -> None:
    assert is_allowed(host, port, entries) is allowed


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("2130706433", "loopback address"),
        ("0177.0.0.1", "loopback address"),
        ("0x7f.1", "loopback address"),
        ("10.1", "private address"),
        ("127.0.0.1.", "loopback address"),
        ("fe80::1%lo", "link-local address"),
        ("8.8.8.8", None),
        ("a.test", None),
    ],
)
def test_a_literal_is_read_as_the_system_reads_it(host: str, reason: str | None) -> None:
    if reason is None:
        check_literal(host, 80, ())
        return
    with pytest.raises(AddressRefused, match=f"^{reason}$"):
        check_literal(host, 80, ())
    check_literal(host, 80, [host])


def test_a_name_that_leads_home_is_refused_unless_it_is_named() -> None:
    with pytest.raises(AddressRefused, match="loopback address"):
        asyncio.run(GuardedResolver().resolve("localhost", 80))
    found = asyncio.run(GuardedResolver(["localhost:80"]).resolve("localhost", 80))
    assert {place["host"] for place in found} == {"127.0.0.1"}, "of the family asked for"
    assert {place["family"] for place in found} == {socket.AF_INET}
    with pytest.raises(AddressRefused):
        asyncio.run(GuardedResolver(["localhost:81"]).resolve("localhost", 80))


def test_spellings_of_an_address_are_no_names() -> None:
    found = asyncio.run(GuardedResolver(["2130706433"]).resolve("2130706433", 80))
    assert [place["host"] for place in found] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "port", "entries", "allowed"),
    [
        ("a.test", 80, [], True),
        ("a.test", 443, [], True),
        ("a.test", 8080, [], True),
        ("a.test", 8443, [], True),
        ("a.test", 22, [], False),
        ("a.test", 6379, [], False),
        ("a.test", 6379, ["a.test:6379"], True),
        ("a.test", 6379, ["a.test"], True),
        ("a.test", 6379, ["a.test:80"], False),
        ("b.test", 6379, ["a.test:6379"], False),
    ],
)
def test_ports_of_the_web_and_those_that_are_named(
    host: str, port: int, entries: list[str], allowed: bool
) -> None:
    if allowed:
        check_port(host, port, entries)
        return
    with pytest.raises(AddressRefused, match=r"^port not allowed$"):
        check_port(host, port, entries)
