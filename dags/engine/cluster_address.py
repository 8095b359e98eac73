"""Which Ray cluster a run or a training joins."""

from __future__ import annotations

import os

from gristmill.errors import ConfigurationError


def cluster_address(given: str | None) -> str | None:
    """`given`, else `RAY_ADDRESS`, else None: a Ray of one's own.

    Raises `ConfigurationError` for the address of Ray's client, which does not show a cluster's
    nodes and resources to those behind it.
    """
    address = given or os.environ.get("RAY_ADDRESS") or None
    if address is not None and address.startswith("ray://"):
        raise ConfigurationError(
            f"address {address!r} is Ray's client, which cannot run Ray Data; start the same "
            "command on a node of the cluster with --address auto"
        )
    return address
