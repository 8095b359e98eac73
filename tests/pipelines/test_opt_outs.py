"""Opt-outs in headers and meta tags, as servers and pages write them."""

from __future__ import annotations

import pytest

from gristmill.pipelines.opt_outs import (
    CONTENT_USAGE,
    OPT_OUTS,
    ROBOTS_HEADER,
    ROBOTS_META,
    TDM_HEADER,
    TDM_META,
    agent_token,
    header_opt_out,
    meta_opt_out,
    usage_allows,
)


@pytest.mark.parametrize(
    ("headers", "disallowed"),
    [
        ([], False),
        ([""], False),
        *[([word], True) for word in ("noai", "noimageai", "noml", "noindex", "noimageindex")],
        (["NoImageAI"], True),
        (["all, noindex"], True),
        (["none"], True),
        (["nofollow, noarchive"], False),
        # For one crawler alone, ours or another.
        (["gristmill: noai"], True),
        (["Gristmill: nofollow, noai"], True),
        (["otherbot: noai"], False),
        (["otherbot: nofollow, noai"], False),
        (["*: noindex"], True),
        # Lines that a proxy joined.
        (["otherbot: noindex, noai, gristmill: nofollow"], False),
        (["otherbot: noindex, gristmill: noml"], True),
        (["nofollow, otherbot: noindex, *: noai"], True),
        # A directive with a value names no crawler, nor does a time.
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], False),
        (["unavailable_after: Wednesday, 03-Dec-30 13:09:53 PST, noai"], True),
        (["max-snippet: 0, noai"], True),
        (["max-snippet:-1, NoIndex"], True),
        (["noindex, unavailable_after: 25 Jun 2030"], True),
        (["noai: yes"], True),
        # Words that only hold one of ours.
        (["noaiml, x-noindex"], False),
        # Any of several headers.
        (["all", "noimageindex"], True),
    ],
)
def test_x_robots_tag(headers: list[str], disallowed: bool) -> None:
    lines = [("Content-Type", "image/png"), *[("X-Robots-Tag", value) for value in headers]]
    assert header_opt_out(lines, "gristmill") == (ROBOTS_HEADER if disallowed else None)
    assert header_opt_out([(n.lower(), v) for n, v in lines], "GristMill") == (
        ROBOTS_HEADER if disallowed else None
    )


@pytest.mark.parametrize(
    ("value", "allows"),
    [
        ("train-ai=n", False),
        ("train-ai=y", True),
        ("train-genai=n", False),
        ("search=y, train-ai=n", False),
        ("search=n", None),
        ("", None),
        # What is not said of a category is what is said of the wider one.
        ("bots=n", False),
        ("bots=n, train-ai=y", True),
        ("train-ai=y, train-genai=n", False),
        ("train-ai=n, train-genai=y", False),
        # Parameters, spaces, capitals, quotes, a boolean.
        ("train-ai=n;exp=2030", False),
        ("Train-AI = N", False),
        ('train-ai="n"', False),
        ("train-ai=?0", False),
        # The last of several counts.
        ("train-ai=n, train-ai=y", True),
        ("train-ai=y,train-ai=n", False),
        # No preference.
        ("train-ai", None),
        ("train-ai=no", None),
        ("train-ai=(n y)", None),
        ("other-train-ai=n", None),
        # Commas in strings and inner lists part nothing.
        ('note="a, train-ai=n"', None),
        ('note="a \\", train-ai=n", train-ai=y', True),
        ("list=(a, train-ai=n), search=y", None),
        # What is broken takes nothing else with it.
        ("%%%, train-ai=n, =", False),
        ('train-ai=n, note="never closed', False),
        ("list=(never closed, train-ai=n", None),
    ],
)
def test_content_usage(value: str, allows: bool | None) -> None:
    assert usage_allows(value) is allows
    expected = CONTENT_USAGE if allows is False else None
    assert header_opt_out([("content-usage", value)], "gristmill") == expected


def test_lines_of_one_field_are_one_list() -> None:
    lines = [("Content-Usage", "search=y"), ("Content-Usage", "train-ai=n")]
    assert header_opt_out(lines, "gristmill") == CONTENT_USAGE


@pytest.mark.parametrize(
    ("value", "reserved"),
    [("1", True), (" 1 ", True), ('"1"', True), ("1, 1", True), ("0", False), ("", False),
     ("10", False), ("yes", False)],
)  # fmt: skip
def test_tdm_reservation(value: str, reserved: bool) -> None:
    assert header_opt_out([("TDM-Reservation", value)], "x") == (TDM_HEADER if reserved else None)
    assert meta_opt_out("TDM-Reservation", value) == (TDM_META if reserved else None)


def test_meta_tags_of_a_page() -> None:
    assert meta_opt_out("robots", "noai, noimageai") == ROBOTS_META
    assert meta_opt_out(" ROBOTS ", "NoIndex") == ROBOTS_META
    assert meta_opt_out("gristmill", "noml") == ROBOTS_META
    assert meta_opt_out("otherbot", "noai") is None
    assert meta_opt_out("mine", "noai", "Mine") == ROBOTS_META
    assert meta_opt_out("robots", "max-image-preview:large") is None
    assert meta_opt_out("description", "noai") is None


@pytest.mark.parametrize(
    ("user_agent", "token"),
    [
        ("gristmill/1.0 (dataset curation)", "gristmill"),
        ("mine", "mine"),
        ("Mozilla/5.0 (compatible; img2dataset; +https://example.com)", "img2dataset"),
        ("Mozilla/5.0 (X11; Linux x86_64) Gecko", "Mozilla"),
        ("My-Crawler_2 (mail@example.com)", "My-Crawler_2"),
        ("", ""),
    ],
)
def test_the_token_of_a_user_agent(user_agent: str, token: str) -> None:
    assert agent_token(user_agent) == token


def test_reasons_are_told_apart() -> None:
    assert len(set(OPT_OUTS)) == len(OPT_OUTS)
