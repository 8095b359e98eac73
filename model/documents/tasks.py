"""What is asked of a model: tasks as segments of documents, for training and for sampling."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gristmill.errors import ConfigurationError
from gristmill.model.documents.facts import SampleColumns
from gristmill.model.documents.segments import ImageSegment, Segment, TextSegment
from gristmill.model.documents.vocabulary import ANSWER, DESCRIBE, DRAW, EDIT, REPLY

TASKS = ("draw", "describe", "answer", "edit", "text", "interleaved", "continue", "chat")

Questions = Callable[[str], list[tuple[str, str]]]
"""A caption -> questions and answers about its picture."""


def drawing(prompt: str, frames: int = 1) -> list[Segment]:
    """Text to picture, or to the frames of a clip; an empty prompt is what guidance compares
    with."""
    said = TextSegment(prompt, special_token=DRAW)
    return [said, *(ImageSegment(number, is_target=True) for number in range(frames))]


def describing(caption: str, frames: int = 1) -> list[Segment]:
    """Picture, or frames, to caption."""
    seen = [ImageSegment(number) for number in range(frames)]
    return [*seen, TextSegment(caption, is_target=True, special_token=DESCRIBE, ends=True)]


def continuing(caption: str, frames: int = 2) -> list[Segment]:
    """Text and the first frame of a clip to its other frames."""
    others = [ImageSegment(number, is_target=True) for number in range(1, frames)]
    return [TextSegment(caption, special_token=DRAW), ImageSegment(0), *others]


def answering(turns: Sequence[tuple[str, str]]) -> list[Segment]:
    """Picture and questions to their answers, (question, answer) by turns."""
    segments: list[Segment] = [ImageSegment()]
    for question, answer in turns:
        segments.append(TextSegment(question, special_token=ANSWER))
        segments.append(TextSegment(answer, is_target=True, special_token=REPLY, ends=True))
    return segments


def editing(instruction: str) -> list[Segment]:
    """Picture 0 and an instruction to picture 1."""
    return [
        ImageSegment(0),
        TextSegment(instruction, special_token=EDIT),
        ImageSegment(1, is_target=True),
    ]


def recounting(texts: Sequence[str], places: Sequence[int]) -> list[Segment]:
    """A document: texts in order, and pictures before the texts of those numbers, all learnt."""
    segments: list[Segment] = []
    for number, text in enumerate(texts):
        segments += [
            ImageSegment(i, is_target=True) for i, place in enumerate(places) if place == number
        ]
        segments.append(TextSegment(f"{text} ", is_target=True, ends=number + 1 == len(texts)))
    # Pictures after the last text; the document then ends with a picture.
    segments += [
        ImageSegment(i, is_target=True) for i, place in enumerate(places) if place >= len(texts)
    ]
    if places and max(places) >= len(texts):
        segments = [replace(s, ends=False) if isinstance(s, TextSegment) else s for s in segments]
    return segments


def interleaving(caption: str) -> list[Segment]:
    """A caption, its picture, and the caption again: text and pictures in turn, all learnt."""
    return [
        TextSegment(caption, is_target=True, special_token=DRAW),
        ImageSegment(is_target=True),
        TextSegment(caption, is_target=True, special_token=DESCRIBE, ends=True),
    ]


def unsaid(segments: Sequence[Segment]) -> list[Segment]:
    """What is drawn, without what is said: behind a mark nothing stands, other texts are not there.

    Guidance compares with it, so some of it is learnt.
    """
    last = max(i for i, segment in enumerate(segments) if _is_drawn(segment))
    kept: list[Segment] = []
    for segment in segments[: last + 1]:
        if isinstance(segment, ImageSegment):
            kept.append(segment)
        elif segment.special_token is not None:
            kept.append(TextSegment("", special_token=segment.special_token))
    return kept


def unseen(segments: Sequence[Segment], drawn: int = -1) -> list[Segment]:
    """One of the pictures that are drawn, by number, and nothing that is said or shown before."""
    chosen = [segment for segment in segments if _is_drawn(segment)][drawn]
    return [s for s in unsaid(segments) if s is chosen or isinstance(s, TextSegment)]


def compared(segments: Sequence[Segment], sets: int) -> list[list[Segment]]:
    """What guidance compares: the whole, with nothing said, with nothing shown either; the first
    `sets` of these."""
    found = [list(segments)]
    if sets > 1:
        found.append(unsaid(segments))
    if sets > 2:
        found.append(unseen(segments))
    return found


def _is_drawn(segment: Segment) -> bool:
    return isinstance(segment, ImageSegment) and segment.is_target


@dataclass(frozen=True, kw_only=True)
class GuidanceDropout:
    """Shares of documents that draw without some of what they are given, so that guidance has
    something to compare with (Ho & Salimans 2022; Brooks et al. 2023)."""

    # Nothing is said.
    text: float = 0.1
    # Nothing is said, and no earlier picture is shown; where there is one.
    pictures: float = 0.05

    def leave_out(self, segments: list[Segment], rng: np.random.Generator) -> list[Segment]:
        """The segments, or what is left of them; all of them where nothing is drawn."""
        drawn = sum(map(_is_drawn, segments))
        if not drawn:
            return segments
        chance = rng.uniform()
        if sum(isinstance(segment, ImageSegment) for segment in segments) > 1:
            if chance < self.pictures:
                return unseen(segments, int(rng.integers(drawn)))
            chance -= self.pictures
        return unsaid(segments) if chance < self.text else segments


def segments_for(
    task: str,
    columns: SampleColumns,
    rng: np.random.Generator,
    *,
    questions: Questions | None,
    dropout: GuidanceDropout,
    turns: int = 1,
) -> list[Segment] | None:
    """The segments of one sample under a task, or None where it has nothing for it. At most `turns`
    questions are asked of one picture."""
    segments = _whole(task, columns, rng, questions, turns)
    return segments and dropout.leave_out(segments, rng)


def _whole(
    task: str,
    columns: SampleColumns,
    rng: np.random.Generator,
    questions: Questions | None,
    turns: int,
) -> list[Segment] | None:
    """The same with nothing left out."""
    caption = columns.get("caption") or ""
    media = columns.get("media", "image")
    # Of a document or an edit, no picture alone is what its text says.
    alone = {"image": 1, "video": columns.get("frames") or 1}.get(media, 0)
    if columns.get("picture_count") not in (None, 1):
        alone = 0
    if task in ("draw", "describe", "answer") and not alone:
        return None
    if task == "draw":
        return drawing(caption, alone)
    if task == "continue":
        return continuing(caption, alone) if alone > 1 else None
    if not caption:
        return None
    if task == "describe":
        return describing(caption, alone)
    if task == "text":
        return [TextSegment(caption, is_target=True, ends=True)]
    if task == "interleaved":
        if media == "document":
            return recounting(list(columns["texts"]), list(columns["image_places"]))
        return interleaving(caption) if media == "image" and alone else None
    if task == "edit" and media == "edit":
        return editing(caption)
    if task == "edit":
        # The sample is the picture after the edit; `source_uid` names the one before.
        instruction, before = columns.get("instruction"), columns.get("source_uid")
        return editing(instruction) if instruction and before else None
    if task == "answer":
        asked = asked_of(columns, questions)
        if not asked:
            return None
        return answering([asked[int(i)] for i in rng.permutation(len(asked))[:turns]])
    raise ConfigurationError(f"task {task!r}; choose among {', '.join(TASKS)}")


def asked_of(columns: SampleColumns, questions: Questions | None) -> list[tuple[str, str]]:
    """Questions of a sample: its own columns first, else those made of its caption."""
    question, answer = columns.get("question"), columns.get("answer")
    if question and answer:
        return [(question, answer)]
    return questions(columns.get("caption") or "") if questions else []


def find_questions(name: str) -> Questions | None:
    """What makes questions of captions: "" for nothing, `package.module:function`, or a name alone,
    which stands for `gristmill.model.NAME.questions:questions`: worlds that come with the model are
    found by their place, and none is known here.

    Raises `ConfigurationError` for what cannot be imported.
    """
    if not name:
        return None
    module, colon, attribute = name.partition(":")
    if not colon:
        # A room of model/ that brings its own.
        module, attribute = f"{__package__.rpartition('.')[0]}.{name}.questions", "questions"
    try:
        found: Questions = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "" if colon else " (write package.module:function)"
        raise ConfigurationError(f"questions {name!r} cannot be imported{hint}: {error}") from error
    return found
