"""The token of a Ray cluster: who has it can run programs there, who has not is refused.

Ray takes it from `RAY_AUTH_TOKEN`, else the file `RAY_AUTH_TOKEN_PATH`, else `~/.ray/auth_token`.
It is read here and never shown.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator

HOW_TO_MAKE = (
    "'ray get-auth-token --generate' on the head, which is then started with RAY_AUTH_MODE=token"
)


def find_token() -> str | None:
    """The token that this machine has; None without one."""
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip() or None
    except OSError:
        return None


@contextlib.contextmanager
def own_token() -> Iterator[None]:
    """A Ray that this process starts asks for a token that nobody else knows, in the block.

    Ray by itself would leave one in `~/.ray`, for all who may read that folder. A user who has
    chosen, by one of Ray's variables, is obeyed.
    """
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if any(name in os.environ for name in names):
        yield
        return
    # Not the mode: Ray sets it for a Ray of one's own, and has read the environment when loaded.
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
