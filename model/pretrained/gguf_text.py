"""The tokenizer of a GGUF file, made of its tokens and merges."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gristmill.errors import ConfigurationError, require_known
from gristmill.model.documents.vocabulary import PretrainedText
from gristmill.model.pretrained.text import pretrained_text

_CONTROL, _USER_DEFINED = 3, 4
_DIGITS_ALONE = {"type": "Digits", "individual_digits": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _split_by(pattern: str) -> list[dict[str, Any]]:
    split = {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip
    return [split, {**_BYTES, "use_regex": False}]


# How text is cut before it is merged, by `tokenizer.ggml.pre`.
_CUTS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "default": [_BYTES],
    "smollm": [_DIGITS_ALONE, _BYTES],
    "llama-bpe": _split_by(_LLAMA3),
    "llama3": _split_by(_LLAMA3),
    "qwen2": _split_by(_QWEN2),
}


def gguf_text(fact: Callable[..., Any], rows: int) -> tuple[str, PretrainedText]:
    """A `tokenizers` file, and what there is beside it. `fact`: a value of the metadata by its key.

    Raises `ConfigurationError` for a kind of tokenizer that cannot be made.
    """
    kind = str(fact("tokenizer.ggml.model", ""))
    if kind != "gpt2":
        raise ConfigurationError(
            f"the tokenizer of the file is of kind {kind!r}, only byte-level BPE ('gpt2') can be "
            "made of it; import the folder with config.json and tokenizer.json"
        )
    cut = str(fact("tokenizer.ggml.pre", "default"))
    require_known("way to cut text (tokenizer.ggml.pre)", cut, _CUTS)
    tokens: list[str] = fact("tokenizer.ggml.tokens")
    types: list[int] = fact("tokenizer.ggml.token_type", [1] * len(tokens))
    text = _tokenizers_file(tokens, types, fact("tokenizer.ggml.merges"), cut)
    named = {
        name: tokens[number]
        for name, key in _NAMED.items()
        if (number := fact(f"tokenizer.ggml.{key}_token_id")) is not None
    }
    ends = [fact(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    return text, pretrained_text(
        text, named, str(fact("tokenizer.chat_template", "")), rows=rows,
        ends=[end for end in ends if end is not None], bos=None,
    )  # fmt: skip


_NAMED = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding",
}  # fmt: skip


def _tokenizers_file(tokens: list[str], types: list[int], merges: list[str], cut: str) -> str:
    added = [
        {
            "id": number, "content": content, "special": kind == _CONTROL, "single_word": False,
            "lstrip": False, "rstrip": False, "normalized": False,
        }
        for number, (content, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (_CONTROL, _USER_DEFINED)
    ]  # fmt: skip
    # Qwen's was trained on composed characters.
    composed = {"type": "NFC"} if cut == "qwen2" else None
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": composed,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": _CUTS[cut]},
            "post_processor": None,
            "decoder": {
                "type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                "use_regex": True,
            },
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None,
                "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                "byte_fallback": False, "ignore_merges": cut in ("llama-bpe", "llama3"),
                "vocab": {content: number for number, content in enumerate(tokens)},
                "merges": [merge.split(" ") for merge in merges],
            },
        },
        ensure_ascii=False,
    )  # fmt: skip
