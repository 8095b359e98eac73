"""Which addresses may be fetched from: the public internet, and what the user names.

A name is resolved here, every address it has is checked, and the connection goes to the address
that was checked. Odd spellings (decimal, octal, hexadecimal, IPv6 forms of IPv4) all end as
addresses, so checking addresses rather than spellings leaves no gap.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

import aiohttp.abc

from gristmill.pipelines.download.names import Names

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = {
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192",
        "fd00:ec2::254",
    )
}  # fmt: skip
# IPv6 prefixes that carry an IPv4 address in their last 32 bits.
_CARRIERS = [ipaddress.ip_network(text) for text in ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")]
# What a network translates for itself (RFC 8215): an IPv4 address may lie anywhere within.
_LOCAL_TRANSLATION = ipaddress.ip_network("64:ff9b:1::/48")
# Where the web is served; elsewhere listen services that a list of pictures must not reach.
WEB_PORTS = (80, 443, 8080, 8443)


class AddressRefused(OSError):
    """An address that must not be fetched from; the text is a countable reason."""


def refusal(address: str) -> str | None:
    """Why an address is refused, or None if it is public."""
    try:
        ip: IPAddress = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "invalid address"
    for inner in (ip, *_carried(ip)):
        reason = _plain_refusal(inner)
        if reason is not None:
            return reason
    return None


def _carried(ip: IPAddress) -> list[IPAddress]:
    """IPv4 addresses inside an IPv6 address (mapped, compatible, NAT64, 6to4, Teredo)."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    found: list[IPAddress] = []
    if ip.ipv4_mapped is not None:
        found.append(ip.ipv4_mapped)
    if ip.sixtofour is not None:
        found.append(ip.sixtofour)
    if ip.teredo is not None:
        found += ip.teredo
    if int(ip) > 1 and any(ip in network for network in _CARRIERS):
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return found


def _plain_refusal(ip: IPAddress) -> str | None:
    if ip in _METADATA:
        return "metadata address"
    if ip.is_loopback or ip.is_unspecified:
        return "loopback address"
    if ip.is_link_local:
        return "link-local address"
    if ip.is_multicast:
        return "multicast address"
    if isinstance(ip, ipaddress.IPv6Address) and (ip.is_site_local or ip in _LOCAL_TRANSLATION):
        return "private address"
    if ip.is_private:
        mapped = isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None
        return None if mapped else "private address"
    if ip.is_reserved or not ip.is_global:
        if isinstance(ip, ipaddress.IPv6Address) and (
            # What it carries is looked at by itself.
            ip.ipv4_mapped is not None or any(ip in n for n in _CARRIERS)
        ):
            return None
        return "reserved address"
    return None


def is_allowed(host: str, port: int, allow_hosts: Sequence[str]) -> bool:
    """Whether the user named this host; an entry with a port allows that port alone."""
    host = host.lower().strip("[]")
    return any(
        entry.lower() in (host, f"{host}:{port}", f"[{host}]:{port}") for entry in allow_hosts
    )


class GuardedResolver(aiohttp.abc.AbstractResolver):
    """Resolves a name and refuses it if any of its addresses is not public."""

    def __init__(self, allow_hosts: Sequence[str] = (), servers: Sequence[str] = ()) -> None:
        self.allow_hosts = tuple(allow_hosts)
        self.names = Names(servers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Checked addresses of a name. Raises `AddressRefused`, or OSError if there are none."""
        literal = _literal(host)
        found = [(socket.AF_INET, literal)] if literal else await self.names.addresses(host)
        results: list[aiohttp.abc.ResolveResult] = []
        for kind, address in found:
            if not is_allowed(host, port, self.allow_hosts):
                reason = refusal(address)
                if reason is not None:
                    raise AddressRefused(reason)
            if family in (kind, socket.AF_UNSPEC):
                results.append(
                    {
                        "hostname": host,
                        "host": address,
                        "port": port,
                        "family": kind,
                        "proto": socket.IPPROTO_TCP,
                        "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                    }
                )
        if not results:
            raise OSError("no address")
        return results

    async def close(self) -> None:
        """Give back the sockets."""
        await self.names.close()


def _literal(host: str) -> str | None:
    """An IPv4 address in any spelling that the system's resolver takes; None for a name."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except (OSError, ValueError):
        return None


def check_port(host: str, port: int, allow_hosts: Sequence[str]) -> None:
    """Raises `AddressRefused` for a port where no web is served, unless the user named it."""
    if port not in WEB_PORTS and not is_allowed(host, port, allow_hosts):
        raise AddressRefused("port not allowed")


def check_literal(host: str, port: int, allow_hosts: Sequence[str]) -> None:
    """Check a host that is an address already, however it is spelt: it may never reach a resolver.

    Decimal, octal, hexadecimal and shortened IPv4 are read as the system's resolver reads them.
    """
    address = host.partition("%")[0].rstrip(".")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        spelt = _literal(address)
        if spelt is None:
            return
        address = spelt
    if not is_allowed(host, port, allow_hosts):
        reason = refusal(address)
        if reason is not None:
            raise AddressRefused(reason)
