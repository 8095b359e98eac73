"""Conversations as segments of documents: by the tokenizer's own chat template, or by a plain one.

What the template writes acts as it does in the model's own training; what people said is text,
whatever it reads like. Answers are learnt with the mark that ends them, all else is given.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gristmill.errors import SampleError
from gristmill.model.documents.chat_template import (
    ANSWER_END,
    ANSWER_START,
    LEARNT_END,
    LEARNT_START,
    MARKS,
    TEXT_END,
    TEXT_START,
    ChatTemplate,
    picture_mark,
    picture_number,
    without_marks,
)
from gristmill.model.documents.segments import ImageSegment, Segment, TextSegment
from gristmill.model.documents.vocabulary import ANSWER, REPLY, Vocabulary
from gristmill.pipelines.sources.conversations import (
    IMAGE_MARK,
    BrokenConversation,
    Turn,
    with_marks,
)

PICTURE_IN_ANSWER = "picture in an answer"


@dataclass(frozen=True)
class Message:
    """A turn, and the numbers of the pictures at each of its marks: one, or the frames of a
    clip."""

    role: str
    text: str
    pictures: tuple[tuple[int, ...], ...] = ()

    @property
    def is_learnt(self) -> bool:
        """Whether it is an answer that says something."""
        return self.role == "assistant" and bool(self.text.strip())


def with_pictures(
    turns: Sequence[tuple[str, str]], pictures: Sequence[tuple[int, ...]]
) -> list[Message]:
    """Turns of (role, text) with a sample's pictures at their marks, in order.

    Raises `SampleError` if marks and pictures differ in number, or one stands in an answer.
    """
    try:
        said = with_marks([Turn(*turn) for turn in turns], len(pictures))
    except BrokenConversation as error:
        raise SampleError(str(error)) from error
    messages, at = [], 0
    for role, text in said:
        count = text.count(IMAGE_MARK)
        if count and role == "assistant":
            raise SampleError(PICTURE_IN_ANSWER)
        messages.append(Message(role, text, tuple(pictures[at : at + count])))
        at += count
    return messages


class Chat:
    """Writes conversations for a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Raises `ConfigurationError` for a vocabulary whose chat template is broken."""
        self.vocabulary = vocabulary
        source = vocabulary.chat_template
        self.template = ChatTemplate(source, vocabulary.named_tokens) if source else None
        literals = self.template.literals if self.template else ""
        self._control = _any_of(vocabulary.control_tokens(literals))
        # A control token between its marks is text; where the template cut it from one of them, it
        # is no control token any more.
        whole = f"{TEXT_START}({self._control.pattern}){TEXT_END}"
        self._marks = re.compile(f"{whole}|{MARKS}")
        special = vocabulary.control_tokens("")
        self._end = re.compile(rf"\s*(?:{_any_of(special).pattern})")

    def __reduce__(self) -> tuple[type[Chat], tuple[Vocabulary]]:
        return (Chat, (self.vocabulary,))

    def document(
        self,
        messages: Sequence[Message],
        fits: Callable[[Sequence[Segment]], bool],
        rng: np.random.Generator,
    ) -> tuple[list[Segment], bool] | None:
        """The segments of a conversation whose answers are learnt, and whether it was longer than
        what `fits` and is a window of whole turns. None if nothing in it can be learnt."""
        messages = _until_answer(messages)
        if not messages:
            return None
        segments = self._learnt(messages)
        if fits(segments):
            return segments, False
        window = self._window(messages, fits, rng)
        return (self._learnt(window), True) if window else (segments, False)

    def prompt(self, messages: Sequence[Message]) -> list[Segment]:
        """What an answer is to follow; the last segment is that answer, still empty."""
        if self.template is None:
            return [*_plain(messages), TextSegment("", is_target=True, special_token=REPLY)]
        given = self._templated(messages, add_generation_prompt=True)
        given = [replace(s, is_target=False) if isinstance(s, TextSegment) else s for s in given]
        return [*given, TextSegment("", is_target=True)]

    def _learnt(self, messages: Sequence[Message]) -> list[Segment]:
        if self.template is None:
            return _plain(messages)
        return self._templated(messages, add_generation_prompt=False)

    def _window(
        self,
        messages: Sequence[Message],
        fits: Callable[[Sequence[Segment]], bool],
        rng: np.random.Generator,
    ) -> list[Message]:
        """As many whole exchanges as fit, from one drawn by chance on, after what the system
        said; none if not one fits."""
        head, exchanges = _exchanges(messages)

        def joined(first: int, last: int) -> list[Message]:
            return _until_answer([*head, *(one for part in exchanges[first:last] for one in part)])

        def whole(first: int, last: int) -> bool:
            return fits(self._learnt(joined(first, last)))

        for start in rng.permutation(len(exchanges)).tolist():
            if not any(one.is_learnt for one in exchanges[start]) or not whole(start, start + 1):
                continue
            # Longer ones fit no better, so that halving finds the last that does.
            low, high = start + 1, len(exchanges)
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if whole(start, middle) else (low, middle - 1)
            return joined(start, low)
        return []

    def _templated(
        self, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> list[Segment]:
        assert self.template is not None
        marked = [{"role": one.role, "content": self._marked(one)} for one in messages]
        try:
            said = self.template.render(marked, add_generation_prompt=add_generation_prompt)
        except SampleError:
            # Templates without a place for the system, or that want sides to take turns.
            merged = _merged(marked)
            if merged == marked:
                raise
            said = self.template.render(merged, add_generation_prompt=add_generation_prompt)
        return self._cut(said)

    def _marked(self, message: Message) -> str:
        """The text with marks; an answer's lie within its spaces, which a template may strip."""
        pieces = message.text.split(IMAGE_MARK) if message.pictures else [message.text]
        pieces = [
            self._control.sub(rf"{TEXT_START}\g<0>{TEXT_END}", without_marks(piece))
            for piece in pieces
        ]
        stands = ["".join(map(picture_mark, numbers)) for numbers in message.pictures]
        text = "".join(p for pair in zip(pieces, [*stands, ""], strict=True) for p in pair)
        if not message.is_learnt:
            return text
        core = text.strip()
        at = text.index(core)
        before, after = text[:at], text[at + len(core) :]
        return f"{before}{ANSWER_START}{core}{ANSWER_END}{after}"

    def _cut(self, said: str) -> list[Segment]:
        """Segments of what a template wrote with our marks in it."""
        rendered = _Rendered(said, self._marks)
        learnt = self._learnt_parts(rendered)
        segments: list[Segment] = []
        ids: list[int] = []
        is_target = False

        def close() -> None:
            if ids:
                segments.append(TextSegment("", is_target=is_target, ids=tuple(ids)))
                ids.clear()

        for at, text, acts in rendered.pieces:
            if isinstance(text, int):
                close()
                segments.append(ImageSegment(text))
                continue
            spans = self.vocabulary.spans(text, acts=acts, is_first=at == 0)
            for number, start, end in spans:
                wanted = any(at + start < last and at + end > first for first, last in learnt)
                if wanted != is_target:
                    close()
                    is_target = wanted
                ids.append(number)
        close()
        if segments and isinstance(segments[0], TextSegment):
            segments[0] = replace(segments[0], begins=True)
        return segments

    def _learnt_parts(self, rendered: _Rendered) -> list[tuple[int, int]]:
        """Where what is learnt begins and ends: what the template says is generated, else answers
        from the end of the generation prompt on, with the mark that ends them."""
        assert self.template is not None
        if self.template.says_what_is_learnt:
            return rendered.between(LEARNT_START, LEARNT_END)
        found = []
        before, prompt = 0, self.template.generation_prompt
        starts = rendered.places[ANSWER_START]
        for end in rendered.places[ANSWER_END]:
            start = next((at for at in starts if before <= at <= end), None)
            asked = rendered.text.rfind(prompt, before, end if start is None else start)
            if prompt and asked >= 0:
                start = asked + len(prompt)
            if start is not None:
                mark = self._end.match(rendered.text, end)
                found.append((start, mark.end() if mark else end))
            before = end
        return found


class _Rendered:
    """A rendered conversation taken apart: its text without marks, and where these stood."""

    def __init__(self, said: str, marks: re.Pattern[str]) -> None:
        # Place in the text, a stretch of it or a picture's number, and whether control tokens act.
        self.pieces: list[tuple[int, str | int, bool]] = []
        self.places: dict[str, list[int]] = {
            mark: [] for mark in (ANSWER_START, ANSWER_END, LEARNT_START, LEARNT_END)
        }
        self.text = held = ""

        def close(*, acts: bool = True) -> None:
            nonlocal held
            if held:
                self.pieces.append((len(self.text), held, acts))
                self.text, held = self.text + held, ""

        last = 0
        for found in marks.finditer(said):
            held += said[last : found.start()]
            last, mark, inert = found.end(), found.group(), found.group(1)
            if mark in self.places:
                self.places[mark].append(len(self.text) + len(held))
                continue
            close()
            if inert:
                held = inert
                close(acts=False)
            elif (number := picture_number(mark)) >= 0:
                self.pieces.append((len(self.text), number, True))
        held += said[last:]
        close()

    def between(self, start: str, end: str) -> list[tuple[int, int]]:
        """Stretches between two marks."""
        return list(zip(self.places[start], self.places[end], strict=False))


def _any_of(strings: Sequence[str]) -> re.Pattern[str]:
    """Any of these, the longest first; nothing, for none."""
    longest = sorted(strings, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest)) or "(?!)")


def _plain(messages: Sequence[Message]) -> list[Segment]:
    """By our own specials, for tokenizers without a template: pictures at the beginning of a
    question come before it."""
    segments: list[Segment] = []
    for one in messages:
        if one.role == "assistant":
            segments.append(
                TextSegment(one.text, is_target=one.is_learnt, special_token=REPLY, ends=True)
            )
            continue
        special = None if one.role == "system" else ANSWER
        pieces = one.text.split(IMAGE_MARK) if one.pictures else [one.text]
        for piece, numbers in zip(pieces, [*one.pictures, ()], strict=True):
            if piece.strip():
                segments.append(TextSegment(piece.strip(), special_token=special))
                special = None
            segments += map(ImageSegment, numbers)
    return segments


def _exchanges(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """What the system said first, and then what was asked with all that followed."""
    start = next((i for i, one in enumerate(messages) if one.role != "system"), len(messages))
    exchanges: list[list[Message]] = []
    before = ""
    for one in messages[start:]:
        if not exchanges or (one.role == "user" and before != "user"):
            exchanges.append([])
        exchanges[-1].append(one)
        before = one.role
    return list(messages[:start]), exchanges


def _until_answer(messages: Sequence[Message]) -> list[Message]:
    """Up to the last answer: nothing is learnt after it."""
    last = max((i for i, one in enumerate(messages) if one.is_learnt), default=-1)
    return list(messages[: last + 1])


def _merged(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """What the system said, before the first question; and turns of one side after another as
    one."""
    merged: list[dict[str, str]] = []
    for one in messages:
        role = "user" if one["role"] == "system" else one["role"]
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += f"\n\n{one['content']}"
        else:
            merged.append({"role": role, "content": one["content"]})
    return merged
