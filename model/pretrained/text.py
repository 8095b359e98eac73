"""The text of a pretrained model: its tokenizer, its marks, its chat template."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from gristmill.errors import ConfigurationError
from gristmill.model.documents.vocabulary import PretrainedText, check_text
from gristmill.model.pretrained.decoder import Values


def read_text(folder: str, values: Values) -> tuple[str, PretrainedText]:
    """The `tokenizers` file of a folder, and what its model has beside it.

    Raises `ConfigurationError` for a folder without one.
    """
    path = os.path.join(folder, "tokenizer.json")
    if not os.path.exists(path):
        raise ConfigurationError(
            f"{folder} has no tokenizer.json; have it written by transformers: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    with open(path, encoding="utf-8") as file:
        text = check_text(file.read(), path)
    config = _json(folder, "tokenizer_config.json")
    named = named_tokens({**_json(folder, "special_tokens_map.json"), **config})
    generation = _json(folder, "generation_config.json")
    ends = _several(generation.get("eos_token_id")) + _several(values.get("eos_token_id"))
    template = _template(folder, config)
    return text, pretrained_text(
        text, named, template, rows=int(values["vocab_size"]), ends=ends,
        bos=values.get("bos_token_id"),
    )  # fmt: skip


def pretrained_text(
    text: str,
    named: Mapping[str, str],
    chat_template: str,
    *,
    rows: int,
    ends: list[int],
    bos: int | None,
) -> PretrainedText:
    """Marks by the tokenizer's own names, else by the ids of the model's configuration, which are
    left out where the tokenizer does not have them. A model without a start mark was trained on
    documents that follow the end of another: they begin with that."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    known = {end for end in ends if tokenizer.id_to_token(end) is not None}
    ends = [end for end in dict.fromkeys(ends) if end in known]
    eos = tokenizer.token_to_id(named["eos_token"]) if "eos_token" in named else None
    if eos is None and ends:
        eos = ends[0]
    start = tokenizer.token_to_id(named["bos_token"]) if "bos_token" in named else None
    if start is None and bos is not None and tokenizer.id_to_token(bos) is not None:
        start = bos
    return PretrainedText(
        rows=rows,
        bos=eos if start is None else start,
        eos=eos,
        ends=tuple(dict.fromkeys(([] if eos is None else [eos]) + ends)),
        chat_template=chat_template,
        named_tokens=dict(named),
    )


def named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and the like of a tokenizer's configuration, plain or as objects."""
    found = {}
    for name, value in config.items():
        content = value.get("content") if isinstance(value, Mapping) else value
        if name.endswith("_token") and isinstance(content, str):
            found[name] = content
    return found


def _json(folder: str, name: str) -> dict[str, Any]:
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{path} is broken: {error}") from error
    return found


def _template(folder: str, config: Mapping[str, Any]) -> str:
    path = os.path.join(folder, "chat_template.jinja")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return file.read()
    found = config.get("chat_template") or _json(folder, "chat_template.json").get("chat_template")
    if isinstance(found, list):
        # Several by name: for tools, for retrieval; the one for conversations is called so.
        found = {one["name"]: one["template"] for one in found}.get("default")
    return str(found or "")


def _several(ids: int | list[int] | None) -> list[int]:
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list) else [ids]
