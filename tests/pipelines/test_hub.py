"""What a hub refuses is known without its library, and nothing secret is said of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gristmill.pipelines.hub import is_final, refusal, status_of, without_secrets
from gristmill.pipelines.patience import is_of_content, may_heal


class HfHubHTTPError(OSError):
    """As the library's."""

    __module__ = "huggingface_hub.errors"

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


class RepositoryNotFoundError(HfHubHTTPError):
    pass


class GatedRepoError(RepositoryNotFoundError):
    pass


class RevisionNotFoundError(HfHubHTTPError):
    pass


class DisabledRepoError(HfHubHTTPError):
    pass


def behind(error: Exception) -> Exception:
    """As its file system says it."""
    try:
        raise FileNotFoundError("not found") from error
    except FileNotFoundError as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (GatedRepoError(403), "is gated"), (RepositoryNotFoundError(401), "or is private"),
        (RepositoryNotFoundError(404), "or is private"), (RevisionNotFoundError(404), "revision"),
        (DisabledRepoError(403), "disabled"), (HfHubHTTPError(401), "with this token"),
        (HfHubHTTPError(403), "with this token"),
    ],
)  # fmt: skip
def test_refusals(error: Exception, said: str) -> None:
    assert said in str(refusal(error)) and said in str(refusal(behind(error)))


@pytest.mark.parametrize("error", [HfHubHTTPError(404), HfHubHTTPError(503), OSError("no")])
def test_what_is_no_refusal(error: Exception) -> None:
    assert refusal(error) is None and refusal(behind(error)) is None


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_is_refused_is_refused_again(status: int) -> None:
    error = HfHubHTTPError(status)
    assert is_final(error) and status_of(behind(error)) == status and not may_heal(error)


@pytest.mark.parametrize("status", [408, 409, 412, 425, 429, 500, 502, 503, 504])
def test_what_may_be_answered_in_a_moment(status: int) -> None:
    assert may_heal(HfHubHTTPError(status))


def test_an_error_of_a_store_is_none_of_content() -> None:
    assert not is_of_content(HfHubHTTPError(503)) and is_of_content(OSError("not a gzip"))
    assert not is_of_content(FileNotFoundError("gone")) and not is_of_content(OSError(5, "io"))


def test_secrets_are_left_out() -> None:
    text = (
        "PUT https://s3.test/a?X-Amz-Signature=beef&b=1 by Bearer my-own-token\nand hf_abcdefghij"
    )
    assert without_secrets(text, "my-own-token", None) == (
        "PUT https://s3.test/a by Bearer *** and ***"
    )
    assert without_secrets("why? because", "") == "why? because"
