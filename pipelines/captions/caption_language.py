"""The language of a caption, and how much of a text encoder's window it takes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.captions.bounded_text import for_encoder
from gristmill.pipelines.decode import Image
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Score


@dataclass(frozen=True, kw_only=True)
class CaptionLanguage(Score):
    """Language by py3langid (after langid.py, Lui & Baldwin 2012), tokens by CLIP's tokenizer.

    Short captions are hard: "red vintage car" may be of ten languages. Name the `languages` that a
    corpus is made of, and few of them are taken for others. Thresholds by language are rules:
    `clip_score < CASE caption_language WHEN 'en' THEN 0.28 ELSE 0.26 END`.
    """

    libraries: ClassVar[tuple[str, ...]] = ("py3langid", "open_clip_torch")

    # ISO 639-1 codes among which to choose; none: all that the library knows.
    languages: tuple[str, ...] = ()

    def reads(self) -> tuple[str, ...]:
        """The caption."""
        return ("caption",)

    def writes(self) -> pa.Schema:
        """Language and confidence are null where there is no letter."""
        return pa.schema(
            [
                pa.field("caption_language", pa.string()),
                pa.field("caption_language_confidence", pa.float32()),
                pa.field("caption_clip_tokens", pa.int32()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "caption_language": ColumnFacts("Language, ISO 639-1."),
            "caption_language_confidence": ColumnFacts(
                "Posterior probability of that language.", low=0, high=1
            ),
            "caption_clip_tokens": ColumnFacts(
                "Length of its first 8,192 characters in CLIP's BPE, without start and end; CLIP "
                "reads 75.",
                "tokens",
                low=0,
            ),
        }

    def check(self) -> None:
        """Validate the codes."""
        if self.languages:
            _identifier(self.languages)

    def prepare(self) -> None:
        """Load both models."""
        _identifier(self.languages)
        _tokenizer()

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """Identify and count each caption."""
        identifier, tokenizer = _identifier(self.languages), _tokenizer()
        rows: list[tuple[str | None, float | None, int]] = []
        for caption in table["caption"].to_pylist():
            tokens = len(tokenizer.encode(for_encoder(caption))) if caption else 0
            if caption is None or not any(c.isalpha() for c in caption):
                rows.append((None, None, tokens))
                continue
            language, confidence = identifier.classify(caption)
            rows.append((str(language), round(float(confidence), 5), tokens))
        columns = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
        return pa.table(columns, schema=self.writes())


@functools.lru_cache(maxsize=4)
def _identifier(languages: tuple[str, ...]) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = set(identifier.labels)
    for language in languages:
        if language not in known:
            raise ConfigurationError(
                f"language {language!r} is not known; codes are ISO 639-1: "
                f"{', '.join(sorted(known))}"
            )
    if languages:
        identifier.set_languages(list(languages))
    return identifier


@functools.lru_cache(maxsize=1)
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
