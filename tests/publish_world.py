"""Where tests publish, and what lies there then."""

from __future__ import annotations

from hub_double import HubDouble

URL = "hf://datasets/owner/set"


def published(hub: HubDouble, under: str = "", revision: str = "main") -> dict[str, bytes]:
    """What lies on the hub but the README.md, by name below a folder."""
    files = hub.repositories["owner/set"].branches[revision]
    return {
        name.removeprefix(under): stored.data
        for name, stored in files.items()
        if name.startswith(under) and name != "README.md"
    }
