"""Captions as they were meant: broken Unicode mended, entities and control characters gone, what
is private masked. The original stays beside."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from gristmill.pipelines.captions.pii import KINDS, mask
from gristmill.pipelines.schema import ROW, ColumnFacts, with_columns
from gristmill.pipelines.stage import Map, require_choice, setting

_SPACE = re.compile(r"\s+")
_ROWS = 2000


@dataclass(frozen=True, kw_only=True)
class CleanCaptions(Map):
    """Mend captions (ftfy), fold white space, and mask what is private.

    Mended are mojibake, HTML entities, full-width letters and ligatures, terminal escapes, lone
    surrogates; characters that show nothing (controls, zero-width spaces, byte-order marks) are
    removed, but for the joiners that some scripts and emoji need. Letters, quotes, case and
    language are left as they are. uids do not change.
    """

    libraries: ClassVar[tuple[str, ...]] = ("ftfy",)

    # Whether captions are mended at all.
    mend: bool = True
    # Replaced by <EMAIL> and so on.
    mask: tuple[str, ...] = setting((), choices=tuple(KINDS))

    def reads(self) -> tuple[str, ...]:
        """The caption."""
        return ("caption",)

    def writes(self) -> pa.Schema:
        """The caption, what it was if it changed, and how many things were masked."""
        return pa.schema(
            [
                ROW.field("caption"),
                pa.field("caption_original", pa.string()),
                pa.field("caption_masked", pa.int32()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "caption": ColumnFacts("The caption, mended and masked."),
            "caption_original": ColumnFacts("What it was; null where nothing changed."),
            "caption_masked": ColumnFacts("How many private things were masked.", low=0),
        }

    def check(self) -> None:
        """Validate the kinds to mask."""
        require_choice(self, "mask")

    def is_disabled(self) -> bool:
        """Nothing to mend or mask."""
        return not (self.mend or self.mask)

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        """Every row, its caption cleaned."""
        for start in range(0, len(table), _ROWS):
            rows = table.slice(start, _ROWS)
            captions = rows["caption"].to_pylist()
            cleaned = [(None, 0) if text is None else self._clean(text) for text in captions]
            columns = {
                "caption": [text for text, _ in cleaned],
                "caption_original": [
                    old if new != old else None
                    for old, (new, _) in zip(captions, cleaned, strict=True)
                ],
                "caption_masked": [count for _, count in cleaned],
            }
            yield with_columns(rows, columns, self.writes())

    def _clean(self, text: str) -> tuple[str, int]:
        if self.mend:
            text = mend(text)
        return mask(text, self.mask) if self.mask else (text, 0)


def mend(text: str) -> str:
    """A caption as it was meant; see `CleanCaptions`."""
    import ftfy

    text = ftfy.fix_text(text, uncurl_quotes=False, normalization="NFC", unescape_html=True)
    shown = "".join(c for c in text if c.isspace() or not _shows_nothing(c))
    return _SPACE.sub(" ", shown).strip()


def _shows_nothing(character: str) -> bool:
    # Joiners (U+200C, U+200D) change what Persian, Hindi and emoji look like; so do tags of flags.
    if character in "\u200c\u200d" or 0xE0020 <= ord(character) <= 0xE007F:
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Cn", "Co")
