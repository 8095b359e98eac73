"""How much of a text is looked at, where looking costs more than reading: foreign texts have no
bound of their own."""

from __future__ import annotations

import re

LONGEST = 8_192
"""Characters of a caption that expressions of a user's own, and encoders, look at."""
# Letters of a word that a byte-pair encoder merges at once: its time grows with their square.
_WORD = 256
_LONG_WORD = re.compile(rf"[^\W\d_]{{{_WORD}}}(?=[^\W\d_])")


def head(text: str) -> str:
    """What is looked at of a text."""
    return text[:LONGEST]


def for_encoder(text: str) -> str:
    """The head of a text, its words of more than 256 letters cut, for encoders in Python such as
    CLIP's; a text of ordinary words stays as it is."""
    return _LONG_WORD.sub(r"\g<0> ", head(text))
