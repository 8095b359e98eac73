"""One vocabulary for everything: specials, sides of pictures, queries, text, image codes."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gristmill.errors import ConfigurationError
from gristmill.model.documents.facts import VocabularyFacts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIALS = (
    "<pad>", "<bos>", "<eos>", "<mask>", "<image>", "</image>",
    "<draw>", "<describe>", "<answer>", "<edit>", "<reply>",
)  # fmt: skip
PAD, BOS, EOS, MASK, IMAGE, IMAGE_END, DRAW, DESCRIBE, ANSWER, EDIT, REPLY = range(len(SPECIALS))
# Longest side of a grid of codes or latents that can be spelt.
SIDES = 256

# Letters of the longest text whose ids are remembered.
_REMEMBERED = 2_000


@dataclass(frozen=True, kw_only=True)
class PretrainedText:
    """What the text of a pretrained language model has beside a tokenizer's file; ids as its
    tokenizer counts them."""

    # Rows of the model's table of embeddings, which may be more than there are ids; 0: as many.
    rows: int = 0
    # What a document begins and ends with; None: our own.
    bos: int | None = None
    eos: int | None = None
    # All that end an answer.
    ends: tuple[int, ...] = ()
    # Jinja, from messages to control text; empty: none.
    chat_template: str = ""
    # What the template calls bos_token, eos_token and so on.
    named_tokens: dict[str, str] = field(default_factory=dict)


class Vocabulary:
    """Ids of everything a model reads and writes, in one range.

    [specials | sides 1..256 | queries | text | codes of each codebook in turn]
    """

    def __init__(
        self,
        text: str,
        codebooks: Sequence[int] = (),
        queries: int = 0,
        pretrained: PretrainedText | None = None,
    ) -> None:
        """`text`: a `tokenizers` file's content; `codebooks`: codes in each.

        Raises `ConfigurationError` for a pretrained text whose marks or rows are not of this file.
        """
        from tokenizers import Tokenizer

        self._json = text
        self._text = Tokenizer.from_str(text)
        # What people write has no power: `<|im_end|>` in a caption is eleven characters.
        self._text.encode_special_tokens = True
        self.codebooks = tuple(int(count) for count in codebooks)
        self.queries = queries
        self.pretrained = pretrained
        self.side_start = len(SPECIALS)
        self.query_start = self.side_start + SIDES
        self.text_start = self.query_start + queries
        # Ids of some tokenizers have gaps.
        self.text_size = max(self._text.get_vocab().values(), default=-1) + 1
        self.text_rows = (pretrained.rows if pretrained else 0) or self.text_size
        self._set_marks(pretrained or PretrainedText())
        starts, at = [], self.text_start + self.text_rows
        for count in self.codebooks:
            starts.append(at)
            at += count
        self.code_starts = tuple(starts)
        self.size = at
        # Questions and prompts come again and again, and a text is measured before it is written.
        self._encoded = functools.lru_cache(maxsize=50_000)(self._encode)

    def _set_marks(self, pretrained: PretrainedText) -> None:
        if self.text_rows < self.text_size:
            raise ConfigurationError(
                f"a tokenizer of {self.text_size:,} ids for a model of {self.text_rows:,} rows: "
                "they do not belong together"
            )
        marks = [pretrained.bos, pretrained.eos, *pretrained.ends]
        for mark in marks:
            if mark is not None and not 0 <= mark < self.text_size:
                raise ConfigurationError(
                    f"mark {mark} is no text of a tokenizer of {self.text_size:,} ids"
                )
        start = self.text_start
        self.bos = BOS if pretrained.bos is None else start + pretrained.bos
        self.eos = EOS if pretrained.eos is None else start + pretrained.eos
        # In their order, each once; what ends a document ends an answer.
        self.ends = tuple(dict.fromkeys([self.eos, *(start + mark for mark in pretrained.ends)]))
        self.chat_template = pretrained.chat_template
        self.named_tokens = dict(pretrained.named_tokens)

    def __reduce__(
        self,
    ) -> tuple[type[Vocabulary], tuple[str, tuple[int, ...], int, PretrainedText | None]]:
        return (Vocabulary, (self._json, self.codebooks, self.queries, self.pretrained))

    def encode(self, text: str) -> list[int]:
        """Ids of a text that somebody wrote: no mark is put around it, none acts in it."""
        # Remembered are captions, which come again, and no long texts.
        return list(self._encoded(text) if len(text) <= _REMEMBERED else self._encode(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self._text.encode(text, add_special_tokens=False).ids
        return tuple(self.text_start + i for i in ids)

    @functools.cached_property
    def _control(self) -> Tokenizer:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self._json)

    def encode_control(self, text: str) -> list[int]:
        """Ids of what a chat template wrote, in which special strings are the marks they spell.
        Never of what people write."""
        ids = self._control.encode(text, add_special_tokens=False).ids
        return [self.text_start + i for i in ids]

    def control_tokens(self, literals: str) -> list[str]:
        """Texts that are a token of their own and control a model: those that the tokenizer calls
        special, and others that stand in `literals`, what a chat template is written with."""
        return [
            token.content
            for token in self._text.get_added_tokens_decoder().values()
            if token.special or (token.content in literals and not token.content.isspace())
        ]

    def spans(self, text: str, *, acts: bool, is_first: bool) -> list[tuple[int, int, int]]:
        """Ids with the places in `text` where they begin and end; `acts`: control tokens in it are
        tokens, else no token is more than text; `is_first`: nothing comes before, where some
        tokenizers add a space."""
        if acts:
            return self._placed(self._control, text, is_first=is_first)
        found = self._placed(self._inert, text, is_first=is_first)
        added = self._text.get_added_tokens_decoder()
        if not any(number - self.text_start in added for number, _, _ in found):
            return found
        # Some tokenizers hold control tokens among the pieces of text as well; no letter is one.
        return [
            (number, at, at + 1)
            for at, letter in enumerate(text)
            for number, _, _ in self._placed(self._inert, letter, is_first=False)
        ]

    def _placed(
        self, tokenizer: Tokenizer, text: str, *, is_first: bool
    ) -> list[tuple[int, int, int]]:
        found, before = tokenizer.encode(text, add_special_tokens=False), 0
        ids, offsets = found.ids, found.offsets
        if not is_first:
            # After the end of a line none adds a space.
            line = tokenizer.encode(f"\n{text}", add_special_tokens=False)
            head = tokenizer.encode("\n", add_special_tokens=False).ids
            if line.ids[: len(head)] == head:
                ids, offsets, before = line.ids[len(head) :], line.offsets[len(head) :], 1
        return [
            (self.text_start + number, start - before, end - before)
            for number, (start, end) in zip(ids, offsets, strict=True)
        ]

    @functools.cached_property
    def _inert(self) -> Tokenizer:
        """The tokenizer without tokens that are matched before any text is cut, but for spaces,
        which are text."""
        from tokenizers import Tokenizer

        facts = json.loads(self._json)
        facts["added_tokens"] = [one for one in facts["added_tokens"] if one["content"].isspace()]
        return Tokenizer.from_str(json.dumps(facts))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; what is not text is left out."""
        end = self.text_start + self.text_size
        inside = [i - self.text_start for i in ids if self.text_start <= i < end]
        return str(self._text.decode(inside))

    def side(self, count: int) -> int:
        """The id that says how many rows or columns a grid has."""
        if not 1 <= count <= SIDES:
            raise ConfigurationError(f"a grid of {count} rows or columns; 1 to {SIDES} can be said")
        return self.side_start + count - 1

    def to_dict(self) -> VocabularyFacts:
        """What `from_facts` takes."""
        return {
            "text": self._json,
            "codebooks": list(self.codebooks),
            "queries": self.queries,
            "pretrained": dataclasses.asdict(self.pretrained) if self.pretrained else None,
        }

    @classmethod
    def from_facts(cls, facts: VocabularyFacts) -> Vocabulary:
        """The vocabulary that `to_dict` wrote to a JSON file."""
        known = facts["pretrained"]
        pretrained = None
        if known is not None:
            pretrained = PretrainedText(**{**known, "ends": tuple(known["ends"])})
        return cls(facts["text"], facts["codebooks"], facts["queries"], pretrained)

    @property
    def tokenizer_file(self) -> str:
        """The content of the `tokenizers` file of the text."""
        return self._json


def train_text(texts: Iterable[str], size: int = 512) -> str:
    """A byte-level BPE (Sennrich et al. 2016) of at most `size` entries, as a `tokenizers` file.

    The same texts give the same file. Nothing is unknown to it: bytes are always there.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(size, 257),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str())


def check_text(text: str, where: str) -> str:
    """`text` if it is a `tokenizers` file; raises `ConfigurationError` naming `where`."""
    from tokenizers import Tokenizer

    try:
        json.loads(text)
        Tokenizer.from_str(text)
    except Exception as error:
        raise ConfigurationError(f"{where} is not a tokenizers file: {error}") from error
    return text
