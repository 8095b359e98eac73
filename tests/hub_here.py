"""The hub on loopback as the one that this process, or a child of it, knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hub_double import TOKEN, HubDouble
from hub_server import hub_server


@contextlib.contextmanager
def hub_here(token: str | None = TOKEN) -> Iterator[HubDouble]:
    """A hub as the one that this process knows: its library has read the environment long ago,
    so that its constants are set."""
    import huggingface_hub
    from huggingface_hub import HfFileSystem, constants
    from huggingface_hub.utils import _http

    with hub_server() as hub, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(hub, token).items():
            patch.setenv(name, value)
        if token is None:
            patch.delenv("HF_TOKEN", raising=False)
        patch.setattr(constants, "ENDPOINT", hub.endpoint)
        patch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
        # Between tries it waits for seconds.
        patch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None))
        HfFileSystem.clear_instance_cache()
        try:
            yield hub
        finally:
            huggingface_hub.utils.close_session()
            HfFileSystem.clear_instance_cache()


def environment(hub: HubDouble, token: str | None) -> dict[str, str]:
    """What a process needs to know of the double."""
    told = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN_PATH": "/nonexistent/token",
        "GRISTMILL_STORAGE_PATIENCE": "0",
    }
    return told | ({"HF_TOKEN": token} if token else {})
