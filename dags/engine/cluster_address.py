"""Which Ray cluster a run, a training or a job goes to, and which addresses cannot work."""

from __future__ import annotations

import os

from gristmill.errors import ConfigurationError


def cluster_address(given: str | None) -> str | None:
    """`given`, else `RAY_ADDRESS`, else None: a Ray of one's own.

    Raises `ConfigurationError` for the addresses of Ray's client and of its Jobs API: a driver runs
    on a node of its cluster.
    """
    address = given or os.environ.get("RAY_ADDRESS") or None
    if address is not None and "://" in address:
        kind = "Ray's client" if address.startswith("ray://") else "Ray's Jobs API"
        raise ConfigurationError(
            f"address {address!r} is that of {kind}, and a driver runs on its cluster: start the "
            "same command on one of the nodes with --address auto, or from here send it there with "
            "gristmill submit ... --address http://HEAD:8265"
        )
    return address


def jobs_address(given: str | None) -> str:
    """`given`, else `RAY_API_SERVER_ADDRESS`, else `RAY_ADDRESS`: http://HEAD:8265, without a slash
    at its end.

    Raises `ConfigurationError` for anything that is not the address of a Jobs API.
    """
    named = (given, *map(os.environ.get, ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")))
    address = next(filter(None, named), None)
    if address is None:
        raise ConfigurationError("say which cluster: --address http://HEAD:8265")
    if not address.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"address {address!r} is none of Ray's Jobs API: give http://HEAD:8265; on a node of "
            "the cluster itself, gristmill run ... --address auto needs none"
        )
    return address.rstrip("/")
