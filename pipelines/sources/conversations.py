"""Conversations in the shapes that sets of instructions have, as turns of one shape: LLaVA and
ShareGPT (`from`, `value`), OpenAI (`role`, `content`, also in parts), FineVision and The Cauldron
(`user`, `assistant`), columns of one question and its answer."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gristmill.pipelines.sources.reasons import (
    BROKEN_TURN,
    CALL_OF_TOOL,
    FEWER_PICTURES,
    MORE_PICTURES,
    UNKNOWN_SPEAKER,
)
from gristmill.pipelines.sources.values import is_nothing, spelt, text_of

IMAGE_MARK = "<image>"
"""Stands in a turn's text where a picture of the sample is seen."""
ROLES = ("system", "user", "assistant", "tool")
"""Whose a turn may be."""
# Where sets of instructions keep their turns.
TURNS = ("conversations", "messages", "conversation", "texts")
# Columns of a question and of its answer, which are a conversation of one turn; and of what is
# asked about beside the question (Alpaca).
PAIRS = (
    ("question", "answer"), ("instruction", "output"), ("prompt", "completion"),
    ("prompt", "response"), ("query", "response"),
)  # fmt: skip
_BESIDE = "input"

_SPEAKERS = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "ai": "assistant", "bing": "assistant", "bard": "assistant",
    "function_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool",
    "ipython": "tool",
}  # fmt: skip
# How others mark a picture within a text: Qwen2-VL, Janus, InternLM-XComposer, Llama 3.2.
_MARKS = re.compile(
    r"<\|vision_start\|>(?:<\|image_pad\|>)+<\|vision_end\|>|<image_placeholder>|<ImageHere>"
    r"|<\|image\|>"
)


class Turn(NamedTuple):
    """What one side said: `role` is system, user, assistant or tool."""

    role: str
    text: str


class BrokenConversation(ValueError):
    """Turns that cannot be read; the message is a countable reason."""


def conversation_of(values: Mapping[str, object]) -> list[Turn]:
    """The turns of a row's conversation, pictures marked by `IMAGE_MARK`; none if it has none.

    Raises `BrokenConversation` for one that cannot be read.
    """
    for name in TURNS:
        said = spelt(values.get(name))
        if not isinstance(said, (list, tuple)) or not said:
            continue
        if all(isinstance(one, str) for one in said):
            # Of a document; who says what is not told.
            if name == "texts":
                continue
            sides = itertools.cycle(("user", "assistant"))
            said = [
                {"role": role, "content": text} for role, text in zip(sides, said, strict=False)
            ]
        turns = [turn for one in said for turn in _turns(one)]
        return [*_system(values, turns), *turns]
    for question, answer in PAIRS:
        if not is_nothing(values.get(question)) and values.get(answer) is not None:
            asked, beside = _said(values[question]), values.get(_BESIDE)
            if isinstance(beside, str) and beside.strip():
                asked = f"{asked}\n{_said(beside)}"
            turns = [Turn("user", asked), Turn("assistant", _said(values[answer]))]
            return [*_system(values, turns), *turns]
    return []


def with_marks(turns: Sequence[Turn], pictures: int) -> list[Turn]:
    """The turns with a mark for each picture; pictures without any mark come first in what is asked
    first, as LLaVA has them (Liu et al. 2023).

    Raises `BrokenConversation` if marks and pictures differ in number.
    """
    marks = sum(turn.text.count(IMAGE_MARK) for turn in turns)
    first = next((i for i, turn in enumerate(turns) if turn.role == "user"), None)
    found = list(turns)
    if not marks and pictures and first is not None:
        found[first] = Turn("user", f"{IMAGE_MARK}\n" * pictures + turns[first].text)
        marks = pictures
    if marks != pictures:
        raise BrokenConversation(FEWER_PICTURES if marks > pictures else MORE_PICTURES)
    return found


def pictures_within(values: Mapping[str, object]) -> list[object]:
    """What stands for the pictures that lie in the parts of turns themselves, in order: addresses,
    names of files, or data."""
    found: list[object] = []
    for name in TURNS:
        turns = spelt(values.get(name))
        for turn in turns if isinstance(turns, (list, tuple)) else ():
            content = turn.get("content") if isinstance(turn, Mapping) else None
            parts = content if isinstance(content, (list, tuple)) else ()
            for part in parts:
                if isinstance(part, Mapping) and _part(part) == IMAGE_MARK:
                    # {"image_url": {"url": ...}}, {"image": "a.jpg"}, {"path": ...}.
                    keys = ("image_url", "image", "url", "path", "data")
                    cell = next((part[k] for k in keys if part.get(k) is not None), None)
                    found.append(cell.get("url", cell) if isinstance(cell, Mapping) else cell)
    return [] if all(cell is None for cell in found) else found


def first_answer(values: Mapping[str, object]) -> str | None:
    """The first answer of a conversation that says something, if a row has turns that can be
    read."""
    try:
        turns = conversation_of({name: values.get(name) for name in TURNS})
    except BrokenConversation:
        return None
    return next((t.text for t in turns if t.role == "assistant" and t.text.strip()), None)


def _system(values: Mapping[str, object], turns: Sequence[Turn]) -> list[Turn]:
    """What ShareGPT keeps in a column of its own."""
    said = values.get("system")
    if not isinstance(said, str) or not said.strip() or any(t.role == "system" for t in turns):
        return []
    return [Turn("system", said)]


def _turns(turn: object) -> Iterator[Turn]:
    """The turn of one speaker, or those of a question and its answer."""
    turn = spelt(turn)
    if not isinstance(turn, Mapping):
        raise BrokenConversation(BROKEN_TURN)
    speaker = turn.get("from") or turn.get("role")
    if speaker is None:
        pairs = (("user", "assistant"), ("human", "assistant"), *PAIRS)
        there = {name for name, value in turn.items() if value is not None}
        found = next((pair for pair in pairs if there.issuperset(pair)), None)
        if found is None:
            raise BrokenConversation(BROKEN_TURN)
        yield Turn("user", _said(turn[found[0]]))
        yield Turn("assistant", _said(turn[found[1]]))
        return
    role = _SPEAKERS.get(speaker.strip().lower()) if isinstance(speaker, str) else None
    if role is None:
        raise BrokenConversation(UNKNOWN_SPEAKER)
    # Tables have a place for both.
    said = turn.get("value")
    text = _said(turn.get("content") if said is None else said)
    if turn.get("tool_calls") and not text.strip():
        # Each model writes them in its own way; without them, what comes next answers nothing.
        raise BrokenConversation(CALL_OF_TOOL)
    yield Turn(role, text)


def _said(content: object) -> str:
    """A turn's text, also where it stands in parts, between pictures."""
    if isinstance(content, (list, tuple)):
        return "".join(map(_part, content))
    if content is None:
        return ""
    try:
        text = text_of(content)
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise BrokenConversation(BROKEN_TURN)
    return _MARKS.sub(IMAGE_MARK, text)


def _part(part: object) -> str:
    if not isinstance(part, Mapping):
        return _said(part)
    kind = part.get("type")
    if kind == "text" or (kind is None and isinstance(part.get("text"), str)):
        return _said(part.get("text"))
    if kind in ("image", "image_url", "input_image") or (kind is None and part.get("image")):
        return IMAGE_MARK
    raise BrokenConversation(BROKEN_TURN)
