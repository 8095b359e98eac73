"""Which task a sample serves, and the segments that it becomes."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gristmill.errors import SampleError
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.documents.chat import Chat, with_pictures
from gristmill.model.documents.document_writer import DocumentWriter
from gristmill.model.documents.facts import SampleColumns
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import Segment, TextSegment
from gristmill.model.documents.tasks import GuidanceDropout, asked_of, find_questions, segments_for

# Characters of a token, about as many as any has.
_LONGEST_TOKEN = 16
Grids = Callable[[Sequence[Segment]], Sequence[PictureGrid]]
"""Segments of a sample -> rows and columns of its pictures, by the numbers they give them."""


def generator(*numbers: int) -> np.random.Generator:
    """That of a list of these numbers, as an array of words, which is taken in half the time."""
    return np.random.Generator(np.random.PCG64(np.array(numbers, np.int64).astype(np.uint32)))


@dataclass(frozen=True)
class Chosen:
    """What a sample became, and whether it is a part of what did not fit into a row."""

    segments: list[Segment]
    windowed: bool = False


class TaskMix:
    """The tasks of one source, by their shares."""

    def __init__(
        self,
        source: DataSource,
        writer: DocumentWriter,
        *,
        row_length: int,
        captions: str,
        dropout: GuidanceDropout,
    ) -> None:
        self._writer, self._length, self._captions = writer, row_length, captions
        self._tasks = {name: share for name, share in source.tasks.items() if share > 0}
        self._questions, self._dropout = find_questions(source.questions), dropout
        self._turns = source.turns
        self._chat = Chat(writer.vocabulary) if "chat" in self._tasks else None

    def choose(self, columns: SampleColumns, seed: tuple[int, ...], grids: Grids) -> Chosen | None:
        """The segments of a task drawn from the mix; of the next best where the sample lacks for
        it. None if it has nothing for any.

        Raises `SampleError` if what it has cannot be read, and it has nothing else.
        """
        rng = generator(*seed, 1)
        # Exponential races: the first to arrive is drawn with its share, then the next.
        arrivals = {name: rng.standard_exponential() / share for name, share in self._tasks.items()}
        several = columns.get("captions")
        if several is not None and self._captions == "all":
            columns["caption"] = several[int(generator(*seed, 3).integers(len(several)))]
        if self._captions == "best" and columns.get("best_caption"):
            columns["caption"] = columns["best_caption"]
        fault: SampleError | None = None
        for task in sorted(self._tasks, key=arrivals.__getitem__):
            try:
                found = self._of_task(task, columns, rng, grids)
            except SampleError as error:
                fault = error
                continue
            if found is not None:
                return found
        if fault is not None:
            raise fault
        return None

    def _of_task(
        self, task: str, columns: SampleColumns, rng: np.random.Generator, grids: Grids
    ) -> Chosen | None:
        if task == "chat":
            return self._conversation(columns, rng, grids)
        segments = segments_for(
            task,
            columns,
            rng,
            questions=self._questions,
            dropout=self._dropout,
            turns=self._turns,
        )
        if segments is None:
            return None
        if task == "interleaved":
            return self._window(segments, grids(segments), rng)
        if task == "text":
            return self._text_window(segments, rng)
        return self._cut(segments, grids(segments))

    def _conversation(
        self, columns: SampleColumns, rng: np.random.Generator, grids: Grids
    ) -> Chosen | None:
        assert self._chat is not None
        turns = turns_of(columns)
        if not turns:
            asked = asked_of(columns, self._questions)
            order = rng.permutation(len(asked))[: self._turns].tolist()
            sides = ("user", "assistant")
            turns = [
                (side, said) for i in order for side, said in zip(sides, asked[i], strict=True)
            ]
        if not turns:
            return None
        messages = with_pictures(turns, pictures_of(columns))
        found = self._chat.document(messages, lambda part: self._fits(part, grids(part)), rng)
        return found and Chosen(*found)

    def _fits(self, segments: Sequence[Segment], grids: Sequence[PictureGrid]) -> bool:
        return self._writer.length(segments, grids) <= self._length

    def _window(
        self, segments: list[Segment], grids: Sequence[PictureGrid], rng: np.random.Generator
    ) -> Chosen:
        """A document that is longer than a row: what fits from a place drawn by chance on."""
        if self._fits(segments, grids):
            return Chosen(segments)
        start = int(rng.integers(len(segments)))
        end = start + 1
        while end < len(segments) and self._fits(segments[start : end + 1], grids):
            end += 1
        if not self._fits(segments[start:end], grids):
            return self._cut(segments[start:end], grids)
        return Chosen(segments[start:end], windowed=True)

    def _cut(self, segments: list[Segment], grids: Sequence[PictureGrid]) -> Chosen:
        """Of a caption, or another text beside a picture, that is longer than the row leaves room
        for, the beginning, whose end is not learnt. Unchanged if the pictures alone are longer."""
        if self._fits(segments, grids):
            return Chosen(segments)
        encode = self._writer.vocabulary.encode
        ids = [
            tuple(encode(s.text)) if isinstance(s, TextSegment) and s.ids is None else ()
            for s in segments
        ]

        def cut(count: int) -> list[Segment]:
            return [
                replace(s, text="", ids=of[:count], ends=False)
                if isinstance(s, TextSegment) and len(of) > count
                else s
                for s, of in zip(segments, ids, strict=True)
            ]

        most = max(map(len, ids), default=0)
        room = bisect.bisect_left(
            range(most), True, key=lambda n: not self._fits(cut(n + 1), grids)
        )
        return Chosen(cut(room), windowed=True) if room else Chosen(segments)

    def _text_window(self, segments: list[Segment], rng: np.random.Generator) -> Chosen:
        """Of a text that is longer than a row, what fits from a place drawn by chance on."""
        (whole,) = segments
        assert isinstance(whole, TextSegment)
        text = whole.text
        # Of one that is very long a part is encoded, by chance as well.
        start, most = 0, self._length * _LONGEST_TOKEN
        if len(text) > 2 * most:
            start = int(rng.integers(len(text) - most + 1))
            text = text[start : start + most]
        elif self._fits(segments, []):
            return Chosen(segments)
        ids = self._writer.vocabulary.encode(text)
        room = bisect.bisect_left(
            range(len(ids)),
            True,
            key=lambda n: not self._fits([replace(whole, ids=(0,) * (n + 1))], []),
        )
        at = int(rng.integers(len(ids) - room + 1))
        is_end = start + len(text) == len(whole.text) and at + room == len(ids)
        held = tuple(ids[at : at + room])
        # Its ids say all: the text would go to workers as well.
        window = TextSegment("", is_target=True, ends=is_end, ids=held)
        if start == 0 and at == 0:
            return Chosen([window], windowed=True)
        # Before its first token stands no start of a document, and so nothing that it follows from.
        first = TextSegment("", ids=(ids[at],), begins=True)
        return Chosen([first, replace(window, ids=held[1:])], windowed=True)


def turns_of(columns: SampleColumns) -> list[tuple[str, str]]:
    """The turns of a sample's conversation, (role, text); none if it has none."""
    messages = columns.get("messages")
    if messages is None:
        return []
    return [(turn["role"] or "", turn["text"] or "") for turn in messages]


def pictures_of(columns: SampleColumns) -> list[tuple[int, ...]]:
    """The numbers of the pictures that each mark in a conversation stands for: of a clip, those of
    its frames together."""
    media = columns.get("media", "image")
    if media == "video":
        return [tuple(range(columns.get("frames") or 1))]
    count = {"image": 1, "edit": 2}.get(media, 0)
    if media == "document":
        count = len(columns["image_places"])
    known = columns.get("picture_count")
    return [(number,) for number in range(count if known is None else known)]
