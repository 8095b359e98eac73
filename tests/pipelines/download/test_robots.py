"""X-Robots-Tag, as servers write it."""

from __future__ import annotations

import pytest

from gristmill.pipelines.download.robots import is_disallowed


@pytest.mark.parametrize(
    ("headers", "disallowed"),
    [
        ([], False),
        ([""], False),
        (["noai"], True),
        (["NoImageAI"], True),
        (["all, noindex"], True),
        (["none"], True),
        (["nofollow, noarchive"], False),
        # For one crawler alone, ours or another.
        (["gristmill: noai"], True),
        (["Gristmill: nofollow, noai"], True),
        (["otherbot: noai"], False),
        (["*: noindex"], True),
        # A directive with a value names no crawler.
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], False),
        (["max-snippet: 0, noai"], True),
        (["noindex, unavailable_after: 25 Jun 2030"], True),
        # Any of several headers.
        (["all", "noimageindex"], True),
    ],
)
def test_headers(headers: list[str], disallowed: bool) -> None:
    assert is_disallowed(headers, "gristmill") is disallowed


def test_only_what_is_obeyed_counts() -> None:
    assert not is_disallowed(["noai"], "gristmill", ["noindex"])
    assert is_disallowed(["none"], "gristmill", [" NoIndex "])
    assert not is_disallowed(["none"], "gristmill", ["noai"])
    assert not is_disallowed(["noai, none"], "gristmill", [])
