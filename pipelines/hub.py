"""What a hub of datasets (`hf://`) refuses, in words with the remedy. Its library is not loaded for
that: an error is known by its class's name and by the status of the answer."""

from __future__ import annotations

import re
from collections.abc import Iterator

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
# Without a byte for so long a connection is given up.
_SILENCE_S = 120.0
# Statuses that may well be another in a moment: a timeout, a conflict, a lock, a limit of requests.
_HEALING = frozenset({408, 409, 412, 423, 425, 429})


def status_of(error: BaseException) -> int | None:
    """Status of the HTTP answer that an error is made of, or that what it comes from is made of."""
    for one in _causes(error):
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def is_final(error: BaseException) -> bool:
    """Whether an answer says that the same request will be refused again."""
    status = status_of(error)
    return status is not None and 400 <= status < 500 and status not in _HEALING


def refusal(error: BaseException) -> str | None:
    """Why a hub does not give what it was asked for, with the remedy; None if it is not that."""
    for one in _causes(error):
        names = {kind.__name__ for kind in type(one).__mro__}
        if "HfHubHTTPError" not in names:
            continue
        status = status_of(one)
        if "GatedRepoError" in names:
            return f"is gated: ask for access on its page, then {LOG_IN}"
        if "DisabledRepoError" in names:
            return "was disabled by the Hub"
        if "RevisionNotFoundError" in names:
            return "has no such revision; is what stands after @ right?"
        if "RepositoryNotFoundError" in names:
            return f"is not there, or is private: look at its name, or {LOG_IN} as who may read it"
        if status in (401, 403):
            return f"cannot be read with this token: {LOG_IN} as who may read it"
    return None


def end_silence() -> None:
    """Let the hub's library, which waits for ever by itself, give up a connection that falls
    silent, and ask again. It makes a new client after one that failed: to be said again."""
    from huggingface_hub import get_session

    get_session().timeout = _SILENCE_S


def without_secrets(text: str, *secrets: str | None) -> str:
    """A text without what is secret in it, tokens and queries of URLs, which may be signed; on one
    line."""
    for secret in secrets:
        text = text.replace(secret, "***") if secret else text
    text = re.sub(r"\bhf_\w{8,}", "***", text)
    return re.sub(r"[?&][^\s'\"?&]*=[^\s'\"]*", "", " ".join(text.split()))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what it comes from."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
