"""Conversations in the shapes that are found in the wild, as turns of one shape."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gristmill.pipelines.sources.conversations import (
    BrokenConversation,
    conversation_of,
    first_answer,
)

ASKED, SAID = ("user", "<image>\nWhat colour?"), ("assistant", "red")

SHAPES: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "LLaVA": (
        {
            "conversations": [
                {"from": "human", "value": "<image>\nWhat colour?"},
                {"from": "gpt", "value": "red"},
            ]
        },
        [ASKED, SAID],
    ),
    "ShareGPT with a column of its system": (
        {
            "system": "Be brief.",
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
                {"from": "function_call", "value": "{}"},
                {"from": "observation", "value": "4"},
            ],
        },
        [
            ("system", "Be brief."),
            ("user", "Hi"),
            ("assistant", "Hello"),
            ("assistant", "{}"),
            ("tool", "4"),
        ],
    ),
    "OpenAI": (
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": None},
            ]
        },
        [("system", "Be brief."), ("user", "Hi"), ("assistant", "")],
    ),
    "OpenAI in parts": (
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "data:,"}},
                        {"type": "text", "text": "\nWhat colour?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
            ]
        },
        [ASKED, SAID],
    ),
    "parts as Parquet has them": (
        {
            "messages": [
                {
                    "role": "user",
                    "from": None,
                    "value": None,
                    "content": [
                        {"type": "image", "text": None},
                        {"type": "text", "text": "\nWhat colour?"},
                    ],
                },
                {"role": None, "from": "gpt", "value": "red", "content": None},
            ]
        },
        [ASKED, SAID],
    ),
    "Qwen": (
        {
            "conversations": [
                {
                    "from": "user",
                    "value": "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
                    "\nWhat colour?",
                },
                {"from": "assistant", "value": "red"},
            ]
        },
        [ASKED, SAID],
    ),
    "FineVision": (
        {"texts": [{"user": "What?", "assistant": "red"}, {"user": "Why?", "assistant": ""}]},
        [("user", "What?"), SAID, ("user", "Why?"), ("assistant", "")],
    ),
    "The Cauldron": (
        {"texts": [{"user": "What?", "assistant": "red", "source": "vqa"}]},
        [("user", "What?"), SAID],
    ),
    "spelt out": (
        {"conversations": '[{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]'},
        [("user", "What?"), SAID],
    ),
    "texts in turn": ({"conversation": ["What?", "red"]}, [("user", "What?"), SAID]),
    "a question and its answer": (
        {"question": "What?", "answer": "red"},
        [("user", "What?"), SAID],
    ),
    "Alpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": 3},
        [("user", "Add.\n1, 2"), ("assistant", "3")],
    ),
    "two answers in a row, and a question last": (
        {
            "messages": [
                {"role": "assistant", "content": "red"},
                {"role": "assistant", "content": "red"},
                {"role": "user", "content": "Why?"},
            ]
        },
        [SAID, SAID, ("user", "Why?")],
    ),
    "a document": ({"texts": ["one", "two"], "images": []}, []),
    "nothing": ({"caption": "red", "answer": "red", "messages": None}, []),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_in_the_wild(shape: str) -> None:
    values, turns = SHAPES[shape]
    assert [tuple(turn) for turn in conversation_of(values)] == turns


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ("said", "broken turn"),
        ({"value": "said"}, "broken turn"),
        ({"from": "human", "value": {"a": 1}}, "broken turn"),
        ({"from": "human", "value": b"\xff"}, "broken turn"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "broken turn"),
        ({"from": "narrator", "value": "said"}, "unknown speaker"),
        ({"from": 7, "value": "said"}, "unknown speaker"),
        (
            {"role": "assistant", "content": None, "tool_calls": [{"function": {}}]},
            "call of a tool without its text",
        ),
    ],
)
def test_what_cannot_be_read_has_a_reason(turn: object, reason: str) -> None:
    with pytest.raises(BrokenConversation, match=reason):
        conversation_of({"messages": [{"role": "user", "content": "Hi"}, turn]})


def test_the_first_answer_says_something() -> None:
    turns = [{"user": "a", "assistant": " "}, {"user": "b", "assistant": "red"}]
    assert first_answer({"texts": turns}) == first_answer({"texts": json.dumps(turns)}) == "red"
    assert first_answer({"question": "a", "answer": "red"}) is None
    assert first_answer({"texts": [{"narrator": "a"}]}) is None
