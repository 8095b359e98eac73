"""What can be told of a caption by reading it alone."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.captions.bounded_text import head
from gristmill.pipelines.captions.pii import holds
from gristmill.pipelines.decode import Image
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score

# Phrases that describe a page or a file rather than a picture.
BOILERPLATE = (
    r"click (here|to|for|on)\b",
    r"\b(image|photo|picture|preview) (not|coming|unavailable)\b.*\b(available|soon)?\b",
    r"^(image|photo|picture|thumbnail) (for|of|from) (the |this )?"
    r"(post|article|product|page|item|listing)\b",
    r"^(image|photo|picture|img|pic|thumbnail|thumb|logo|icon|banner|avatar|untitled|unnamed|"
    r"default|placeholder|no image|no title|attachment|screenshot)s?[\s_\-#.:()]*\d*$",
    r"^(img|dsc|dscn|dscf|pict?|photo|image|screenshot|scan)[_\-\s]?\d{2,}",
    r"^\S+\.(jpe?g|png|gif|webp|bmp|tiff?|svg)$",
    r"\b(stock (photo|image|vector|illustration|footage)|royalty[- ]free|getty images|"
    r"shutterstock|all rights reserved)\b",
    r"\b(add to (cart|basket|wishlist)|buy now|free shipping|read more|view (larger|full|all)|"
    r"enlarge image|share on (facebook|twitter|pinterest)|sign up (for|now|today)|"
    r"subscribe (to|now))\b",
    r"^(facebook|twitter|instagram|pinterest|linkedin|youtube|share|print|email)$",
)
# Each of these takes time in proportion to the text, whatever is in it: nowhere may a repetition
# begin anew at every place that it has passed.
_URL = re.compile(r"https?://|www\.\w|\w-*\.(?:com|org|net|io|co|de|uk|ru)\b", re.I)
# Tags in lower case: "<PERSON>" and the like are somebody's anonymisation, not markup.
_TAG = re.compile(r"</?[a-z][a-z0-9]*(?:\s[^>]*)?/?>")
_SHORTCODE = re.compile(r"\[/?[a-z]+(?:=[^\]]*)?\]")
_ENTITY = re.compile(r"&[a-z]{2,6};|&#\d+;|\{\{|\}\}")
# Scripts written without spaces: each character counts as a word.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
# A word; case is kept.
WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+(?:['’-][^\W{_UNSPACED}]+)*")


@dataclass(frozen=True, kw_only=True)
class CaptionFacts(Score):
    """Length, alphabet, repetition, and whether a caption is boilerplate, markup or an address.

    Words are runs of letters and digits; in scripts without spaces each character is a word.
    """

    # Regular expressions, case ignored; a caption in whose first 8,192 characters any of them finds
    # something is boilerplate.
    boilerplate: tuple[str, ...] = BOILERPLATE

    def reads(self) -> tuple[str, ...]:
        """The caption."""
        return ("caption",)

    def writes(self) -> pa.Schema:
        """One typed column a fact; all are null where there is no caption, but the counts are 0."""
        return pa.schema(
            [
                pa.field("caption_chars", pa.int32()),
                pa.field("caption_words", pa.int32()),
                pa.field("caption_alpha_share", pa.float32()),
                pa.field("caption_repetition", pa.float32()),
                pa.field("caption_boilerplate", pa.bool_()),
                pa.field("caption_markup", pa.bool_()),
                pa.field("caption_url", pa.bool_()),
                pa.field("caption_email", pa.bool_()),
                pa.field("caption_phone", pa.bool_()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "caption_chars": ColumnFacts("Length; 0 without a caption.", "characters", low=0),
            "caption_words": ColumnFacts("Length; 0 without a caption.", "words", low=0),
            "caption_alpha_share": ColumnFacts(
                "Letters of any alphabet by characters that are no space.", low=0, high=1
            ),
            "caption_repetition": ColumnFacts(
                "Share of words and word pairs that came before (Gopher, Rae et al. 2021).",
                low=0,
                high=1,
            ),
            "caption_boilerplate": ColumnFacts("Whether an expression of `boilerplate` finds it."),
            "caption_markup": ColumnFacts("Whether it has tags or entities of HTML."),
            "caption_url": ColumnFacts("Whether it has a web address."),
            "caption_email": ColumnFacts("Whether it has an e-mail address."),
            "caption_phone": ColumnFacts("Whether it has a telephone number."),
        }

    def check(self) -> None:
        """Compile the expressions."""
        for pattern in self.boilerplate:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigurationError(f"boilerplate expression {pattern!r}: {error}") from error

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """Measure each caption."""
        joined = "|".join(f"(?:{pattern})" for pattern in self.boilerplate)
        boilerplate = re.compile(joined, re.IGNORECASE) if joined else None
        rows = [_measure(caption, boilerplate) for caption in table["caption"].to_pylist()]
        columns = [list(values) for values in zip(*rows, strict=True)] or [
            [] for _ in self.writes()
        ]
        return pa.table(columns, schema=self.writes())


def _measure(caption: str | None, boilerplate: re.Pattern[str] | None) -> tuple[object, ...]:
    if caption is None:
        return (0, 0, None, None, False, False, False, False, False)
    text = caption.strip()
    words = WORD.findall(text.lower())
    visible = [c for c in text if not c.isspace()]
    alpha = sum(c.isalpha() for c in visible) / len(visible) if visible else 0.0
    return (
        len(text),
        len(words),
        round(alpha, 5),
        round(_repetition(words), 5),
        bool(boilerplate and boilerplate.search(head(text))),
        has_markup(text),
        bool(_URL.search(text)),
        holds(text, "email"),
        holds(text, "phone"),
    )


def has_markup(text: str) -> bool:
    """Whether a text has tags, short codes in brackets, or entities."""
    # Up to the last bracket that closes: an open one is then always closed by some other.
    tags, codes = text[: text.rfind(">") + 1], text[: text.rfind("]") + 1]
    return bool(_TAG.search(tags) or _SHORTCODE.search(codes) or _ENTITY.search(text))


def _repetition(words: Sequence[str]) -> float:
    """The larger of the shares of repeated word pairs and of the commonest word's repeats."""
    if len(words) < 4:
        return 0.0
    pairs = list(itertools.pairwise(words))
    repeated = 1 - len(set(pairs)) / len(pairs)
    commonest = Counter(words).most_common(1)[0][1]
    return max(repeated, (commonest - 1) / len(words))
