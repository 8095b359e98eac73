"""One vocabulary for everything: specials, sides of pictures, queries, text, image codes."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence

from gristmill.errors import ConfigurationError
from gristmill.model.facts import VocabularyFacts

SPECIALS = (
    "<pad>", "<bos>", "<eos>", "<mask>", "<image>", "</image>",
    "<draw>", "<describe>", "<answer>", "<edit>", "<reply>",
)  # fmt: skip
PAD, BOS, EOS, MASK, IMAGE, IMAGE_END, DRAW, DESCRIBE, ANSWER, EDIT, REPLY = range(len(SPECIALS))
# Longest side of a grid of codes or latents that can be spelt.
SIDES = 256


class Vocabulary:
    """Ids of everything a model reads and writes, in one range.

    [specials | sides 1..256 | queries | text | codes of each codebook in turn]
    """

    def __init__(self, text: str, codebooks: Sequence[int] = (), queries: int = 0) -> None:
        """`text`: a `tokenizers` file's content; `codebooks`: codes in each."""
        from tokenizers import Tokenizer

        self._json = text
        self._text = Tokenizer.from_str(text)
        self.codebooks = tuple(int(count) for count in codebooks)
        self.queries = queries
        self.side_start = len(SPECIALS)
        self.query_start = self.side_start + SIDES
        self.text_start = self.query_start + queries
        self.text_size = int(self._text.get_vocab_size())
        starts, at = [], self.text_start + self.text_size
        for count in self.codebooks:
            starts.append(at)
            at += count
        self.code_starts = tuple(starts)
        self.size = at
        # Questions and prompts come again and again, and a text is measured before it is written.
        self._encoded = functools.lru_cache(maxsize=50_000)(self._encode)

    def __reduce__(self) -> tuple[type[Vocabulary], tuple[str, tuple[int, ...], int]]:
        return (Vocabulary, (self._json, self.codebooks, self.queries))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around it."""
        return list(self._encoded(text))

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.text_start + i for i in self._text.encode(text).ids)

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
        """What the constructor takes."""
        return {"text": self._json, "codebooks": list(self.codebooks), "queries": self.queries}


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
