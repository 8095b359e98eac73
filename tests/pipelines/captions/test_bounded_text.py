"""Foreign texts have no bound: whatever is in one, looking at it takes time in proportion to its
length, and says what it said before."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable

import pytest

from gristmill.pipelines.captions import caption_facts
from gristmill.pipelines.captions.bounded_text import LONGEST, for_encoder, head
from gristmill.pipelines.captions.caption_facts import BOILERPLATE, has_markup
from gristmill.pipelines.captions.clean_captions import mend
from gristmill.pipelines.captions.pii import KINDS, mask
from gristmill.pipelines.dedup.minhash import caption_words

# What repetitions are made of: marks that begin something, and runs that never end it.
PIECES = (
    "1-", "a.", "a@", "a@b.", "@a.b", "1.1.", "<a ", "</a", "[a=", "[/a", "&#1", "&a", "a:", "1:",
    "::", "((", "tel 1(", "tel ", "+1 ", "(555) ", "-", "_", "é", "a'", "{", " ", "\n", "image ",
    "click ", "image not ", ".jpg", "photo of ", "www", "http:", "\u3042", "\u200d", "Ã©",
)  # fmt: skip
ENDS = ("", "!", "g", "\0")
BOILER = re.compile("|".join(f"(?:{pattern})" for pattern in BOILERPLATE), re.I)
LOOKS: dict[str, Callable[[str], object]] = {
    "url": caption_facts._URL.search,
    "markup": has_markup,
    "words": caption_words,
    "boilerplate": BOILER.search,
    "mend": mend,
    **{kind: lambda text, find=find: list(find(text)) for kind, find in KINDS.items()},
}
# Patterns as they were, of the same meaning.
EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.\w{2,}\b")
URL = re.compile(r"https?://|www\.\w|\b[\w-]+\.(com|org|net|io|co|de|uk|ru)\b(/|\b)", re.I)
MARKUP = re.compile(
    r"</?[a-z][a-z0-9]*(?:\s[^>]*)?/?>|&[a-z]{2,6};|&#\d+;|\[/?[a-z]+(=[^\]]*)?\]|\{\{|\}\}"
)


@pytest.mark.parametrize("name", LOOKS)
def test_no_text_takes_more_than_its_length(name: str) -> None:
    """What took 17 s of 40,000 characters; the bound is many times what it takes now."""
    rng = random.Random(name)
    mixed = ["".join(rng.choices(PIECES, k=6)) for _ in range(10)]
    for piece in (*PIECES, *mixed):
        text = (piece * 40_000)[: 2_000 if name == "mend" else 40_000] + rng.choice(ENDS)
        start = time.process_time()
        LOOKS[name](text)
        assert time.process_time() - start < 1.5, (piece, text[-1])


def test_what_is_found_is_what_was_found() -> None:
    rng = random.Random(0)
    parts = (
        *PIECES, "john", ".", "@", "+", "b.com", "x.org", "-", " ", "a", "<b>", "<br/>", "]", ">",
        "<img src=a>", "[b]", "[url=x]", ";", "&amp;", "/", "é.de", "--.com", "a-.com",
    )  # fmt: skip
    for _ in range(4000):
        text = "".join(rng.choices(parts, k=rng.randint(1, 12)))
        spans = [match.span() for match in EMAIL.finditer(text)]
        assert list(KINDS["email"](text)) == spans, text
        assert bool(caption_facts._URL.search(text)) == bool(URL.search(text)), text
        assert has_markup(text) == bool(MARKUP.search(text)), text


def test_private_things_are_masked_wherever_they_stand() -> None:
    filler = "1-" * 20_000
    text = f"{filler} write to ann.lee@mail.example.org or fe80::1:2:3:4, call 555-123-4567"
    masked, count = mask(text, ("email", "network", "phone"))
    assert count == 3 and masked.endswith("write to <EMAIL> or <NETWORK>, call <PHONE>")


def test_what_an_encoder_sees() -> None:
    plain = "a red vintage car, " * 20
    assert for_encoder(plain) == head(plain) == plain
    assert len(head("x" * 50_000)) == LONGEST
    words = for_encoder("x" * 50_000 + " end").split()
    assert max(map(len, words)) == 256 and sum(map(len, words)) == LONGEST
    assert for_encoder("y" * 256) == "y" * 256
