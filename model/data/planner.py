"""Which rows come when, planned without opening a picture: deterministic, exactly resumable, the
same for any number of ranks and workers.

Rows come in lanes, as many as a step has rows: lane i makes row i of every step, of its own share
of the samples, those at the places i, i + lanes, i + 2 lanes and so on of the order of a source. So
who has some of the rows plans some of the lanes, and nothing depends on how many share the work.

Documents of a lane come in blocks. What is in a block follows from the seed, the lane, the block's
number and how far each source was read before it; a block is packed by itself. So the whole state
of a lane is (block, row, cursors).
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pyarrow as pa

from gristmill.errors import ConfigurationError, SampleError, ShardError
from gristmill.model.data.image_tokenizer import ImageTokenizer
from gristmill.model.data.picture_sizes import size_of
from gristmill.model.data.sample_order import SampleOrder
from gristmill.model.data.shard_sources import (
    TOKEN_COLUMNS,
    DataSource,
    Samples,
    chosen_rows,
    open_samples,
)
from gristmill.model.data.stream import LaneState, StreamState
from gristmill.model.data.task_mix import TaskMix, generator
from gristmill.model.documents.batch import best_fit
from gristmill.model.documents.document_writer import DocumentWriter
from gristmill.model.documents.facts import SampleColumns
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import ImageSegment, Segment, TextSegment
from gristmill.model.documents.tasks import TASKS, GuidanceDropout
from gristmill.pipelines.videos.frames import FRAMES

# Documents of a lane that are packed together: so many at least, and enough for some rows, up to
# a limit.
_BLOCK, _BLOCK_ROWS, _BLOCK_MOST = 64, 4, 8192
# First blocks are of so many lengths, so that lanes do not all plan in the same step.
_STAGGER = 8
# Tables of shards that are kept of each source: those of the window that it is in, and of the next.
_TABLES = 32
# Samples of which none can be learnt from before that is an error.
_PATIENCE = 512
CAPTIONS = ("all", "first", "best")


@dataclass(frozen=True)
class DocumentPlan:
    """One document, before any picture is opened."""

    source: int
    shard: int
    row: int
    segments: tuple[Segment, ...]
    seed: tuple[int, ...]
    # Shard, row and number within the sample of each picture, by the number segments give it.
    pictures: tuple[tuple[int, int, int], ...] = ()
    # Rows and columns of each of them.
    grids: tuple[PictureGrid, ...] = ()
    # Why nothing is learnt at its place: it is forgotten, or something is odd about the sample.
    left_out: str = ""
    # Whether it is a part of what was longer than a row.
    windowed: bool = False


RowPlan = tuple[DocumentPlan, ...]

_LOOKED_AT = (
    "uid", "caption", "question", "answer", "instruction", "source_uid", "messages", "texts",
    "image_places", "picture_count", "height", "width", "image_heights", "image_widths",
    "image_uids", "frames", "frame_index", "picture_frames", "captions", "best_caption", "fault",
    *TOKEN_COLUMNS,
)  # fmt: skip
FORGOTTEN = "forgotten"
"""`left_out` of a sample that has a tombstone: it is not lost."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """How sources become rows."""

    rows_per_step: int
    row_length: int
    seed: int = 0
    # What is left out of documents that draw, for guidance.
    dropout: GuidanceDropout = field(default_factory=GuidanceDropout)
    # Of a sample with several captions: one drawn anew each time (all), the first, or that with the
    # highest of `caption_scores` (best; without scores the first).
    captions: str = "all"


class Planner:
    """Plans rows without opening pictures."""

    def __init__(
        self,
        sources: Sequence[DataSource],
        writer: DocumentWriter,
        config: StreamConfig,
        image_tokenizer: ImageTokenizer,
    ) -> None:
        if not sources:
            raise ConfigurationError("no data: give at least one shard set (--data RUN)")
        for source in sources:
            unknown = set(source.tasks) - set(TASKS)
            if unknown or not source.tasks or min(source.tasks.values()) < 0:
                raise ConfigurationError(
                    f"tasks {source.tasks} of {source.title}; give shares of {', '.join(TASKS)}"
                )
            if source.weight <= 0 or sum(source.tasks.values()) <= 0:
                raise ConfigurationError(f"{source.title}: weights and shares must be positive")
        self.sources, self.writer, self.config = list(sources), writer, config
        self.image_tokenizer = image_tokenizer
        self.samples: list[Samples] = [open_samples(source) for source in sources]
        self.orders = [
            SampleOrder(chosen_rows(samples, source.where), config.seed + 1000 * i)
            for i, (samples, source) in enumerate(zip(self.samples, sources, strict=True))
        ]
        self._mixes = [
            TaskMix(
                source,
                writer,
                row_length=config.row_length,
                captions=config.captions,
                dropout=config.dropout,
            )
            for source in sources
        ]
        weights = np.array([source.weight for source in sources])
        self._shares = weights / weights.sum()
        self._tables = functools.lru_cache(maxsize=_TABLES * len(self.sources))(self._table)
        self._columns = functools.lru_cache(maxsize=256)(self._read_columns)
        self._places: dict[int, dict[str, tuple[int, int]]] = {}

    @property
    def size(self) -> int:
        """Samples in all sources, once each."""
        return sum(order.size for order in self.orders)

    @property
    def digests(self) -> list[str]:
        """What each source is at present; changes when its shards are written anew."""
        return [samples.digest for samples in self.samples]

    @property
    def lanes(self) -> int:
        """Rows of a step, each of which is a lane's."""
        return self.config.rows_per_step

    def start(self) -> StreamState:
        """The state of a stream that has given nothing."""
        return StreamState.start(self.lanes, len(self.sources))

    def columns(self, source: int, shard: int, row: int) -> SampleColumns:
        """What a sample's metadata says."""
        return cast(SampleColumns, dict(self._columns(source, shard, row)))

    def frames(self, source: int, columns: SampleColumns) -> int:
        """Frames that are asked of a clip; fewer if it has no more."""
        # Those whose tokens are stored, or whose pictures are.
        there = columns.get("frame_index")
        if there is None:
            there = columns.get("picture_frames")
        known = len(there) if there is not None else min(columns.get("frames") or 1, FRAMES)
        return max(1, min(self.sources[source].frames, known))

    def picture_size(
        self, source: int, shard: int, row: int, number: int = 0
    ) -> tuple[int, int] | None:
        """Height and width of a sample's picture as it decodes, upright; None where it is not
        known."""
        return size_of(self.columns(source, shard, row), number)

    def place(self, source: int, uid: str | None) -> tuple[int, int] | None:
        """Shard and row of a sample of a source; None for one that it does not have."""
        if source not in self._places:
            samples = self.samples[source]
            found: dict[str, tuple[int, int]] = {}
            several = set()
            for shard in range(len(samples.counts())):
                for row, one in enumerate(samples.table(shard)["uid"].to_pylist()):
                    several |= {one} if one in found else set()
                    found[one] = (shard, row)
            # Of tars of others: a key that is in two of them names neither.
            self._places[source] = {one: at for one, at in found.items() if one not in several}
        return self._places[source].get(uid or "")

    def _table(self, source: int, shard: int) -> pa.Table:
        """What is looked at of a shard."""
        table = self.samples[source].table(shard)
        return table.select([name for name in _LOOKED_AT if name in table.column_names])

    def _read_columns(self, source: int, shard: int, row: int) -> dict[str, object]:
        # Of one row: a rank comes to few of the rows of a shard.
        table = self._tables(source, shard)
        columns: dict[str, object] = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            cell = column[row]
            if not pa.types.is_list(column.type):
                columns[name] = cell.as_py()
            elif cell.values is None:
                columns[name] = None
            else:
                columns[name] = cell.values.to_numpy(zero_copy_only=False)
        return columns

    def block(self, state: LaneState) -> tuple[list[RowPlan], LaneState]:
        """The rows of a lane's block, and the state after it."""
        plans, lengths, cursors, unusable = self._drawn(state)
        rows = [
            tuple(plans[i] for i in numbers)
            for numbers in best_fit(lengths, self.config.row_length)
        ]
        after = LaneState(
            lane=state.lane,
            block=state.block + 1,
            cursors=tuple(cursors),
            rows=state.rows,
            too_long=state.too_long + sum(n > self.config.row_length for n in lengths),
            unusable=state.unusable + unusable,
            windowed=state.windowed + sum(plan.windowed for plan in plans),
        )
        if state.block == 0 and all(plan.left_out for row in rows for plan in row):
            self._refuse(plans, lengths, sum(cursors))
        return rows, after

    def _drawn(self, state: LaneState) -> tuple[list[DocumentPlan], list[int], list[int], int]:
        """The documents of a lane's block, their lengths, how far sources are read after it, and
        the samples that have nothing for any task."""
        length = self.config.row_length
        share = 1.0 if state.block else (state.lane % _STAGGER + 1) / _STAGGER
        rng = generator(self.config.seed, 11, state.lane, state.block)
        cursors = list(state.cursors)
        plans: list[DocumentPlan] = []
        lengths: list[int] = []
        number = unusable = filled = learnt = 0
        # Where nothing can be learnt from many, that is said; a few may be unlucky.
        while number < (_BLOCK_MOST if learnt else _PATIENCE) and not (
            learnt and filled >= _BLOCK_ROWS * share * length
        ):
            count = int(_BLOCK * share)
            for pick in rng.choice(len(self.sources), count, p=self._shares).tolist():
                shard, row = self.orders[pick][cursors[pick] * self.lanes + state.lane]
                cursors[pick] += 1
                plan = self._document(
                    pick, shard, row, (self.config.seed, 12, state.lane, state.block, number)
                )
                number += 1
                unusable += plan is None or plan.left_out == FORGOTTEN
                if plan is not None:
                    plans.append(plan)
                    lengths.append(self.writer.length(plan.segments, plan.grids))
                    if lengths[-1] <= length:
                        filled += lengths[-1]
                        learnt += not plan.left_out
        return plans, lengths, cursors, unusable

    def _document(
        self, source: int, shard: int, row: int, seed: tuple[int, ...]
    ) -> DocumentPlan | None:
        """The document of a sample; None if it has nothing for any task. What is left out keeps its
        place, so that all else stays where it was."""
        left_out = self.left_out(source, shard, row)
        columns = self.columns(source, shard, row)
        columns |= {"media": self.samples[source].media, "frames": self.frames(source, columns)}
        if columns.get("source_uid") and self.place(source, columns["source_uid"]) is None:
            columns["source_uid"] = None

        def grids_of(segments: Sequence[Segment]) -> list[PictureGrid]:
            return [self.grid(source, *at) for at in self._pictures(source, shard, row, segments)]

        chosen = None
        try:
            chosen = self._mixes[source].choose(columns, seed, grids_of)
        except SampleError as error:
            left_out = left_out or str(error)
        if chosen is None and left_out in ("", FORGOTTEN):
            return None
        segments = chosen.segments if chosen else [TextSegment("")]
        pictures = self._pictures(source, shard, row, segments)
        for place in pictures:
            left_out = left_out or self.left_out(source, *place[:2])
        grids = tuple(self.grid(source, *place) for place in pictures)
        windowed = chosen is not None and chosen.windowed
        plan = DocumentPlan(
            source, shard, row, tuple(segments), seed, pictures, grids, left_out, windowed
        )
        gone = self.samples[source].forgotten
        if gone and not left_out and not gone.isdisjoint(self.uids(plan)):
            return replace(plan, left_out=FORGOTTEN)
        return plan

    def _pictures(
        self, source: int, shard: int, row: int, segments: Sequence[Segment]
    ) -> tuple[tuple[int, int, int], ...]:
        """Where the pictures of segments lie."""
        numbers = [segment.number for segment in segments if isinstance(segment, ImageSegment)]
        last = max(numbers, default=-1)
        columns = self.columns(source, shard, row)
        alone = self.samples[source].media == "image" and columns.get("picture_count") is None
        if last > 0 and alone:
            # The picture before an edit is a sample of its own.
            before = self.place(source, columns["source_uid"])
            assert before is not None
            return ((*before, 0), (shard, row, 0))
        return tuple((shard, row, number) for number in range(last + 1))

    def grid(self, source: int, shard: int, row: int, number: int) -> PictureGrid:
        """Rows and columns of one picture of a sample."""
        columns = self.columns(source, shard, row)
        size = self.picture_size(source, shard, row, number)
        if not self.image_tokenizer.needs_pixels(columns):
            number = self.stored_number(source, columns, number)
        return self.image_tokenizer.grid_of(columns, number, size)

    def stored_number(self, source: int, columns: SampleColumns, number: int) -> int:
        """Which of the pictures whose tokens are stored is meant by a number."""
        there = columns.get("frame_index")
        if self.samples[source].media != "video" or there is None:
            return number
        # Of more frames than are asked for, those that are spread as evenly.
        return int((number + 0.5) * len(there) / self.frames(source, columns))

    def uids(self, plan: DocumentPlan) -> set[str]:
        """Of the samples that a document shows: its own, that of each of its pictures, and what
        each picture was before it became part of a document."""
        found = {self.columns(plan.source, plan.shard, plan.row)["uid"]}
        shown = {s.number for s in plan.segments if isinstance(s, ImageSegment)}
        for picture in shown:
            shard, row, number = plan.pictures[picture]
            columns = self.columns(plan.source, shard, row)
            found.add(columns["uid"])
            pieces = columns.get("image_uids")
            if pieces is not None and number < len(pieces):
                found.add(pieces[number])
        return found

    def left_out(self, source: int, shard: int, row: int) -> str:
        """Why nothing may be learnt of a sample; empty if it may."""
        gone = self.samples[source].forgotten
        columns = self.columns(source, shard, row)
        if gone and columns["uid"] in gone:
            return FORGOTTEN
        return columns.get("fault") or ""

    def _refuse(self, plans: Sequence[DocumentPlan], lengths: Sequence[int], read: int) -> None:
        whole = [n for plan, n in zip(plans, lengths, strict=True) if not plan.left_out]
        if whole:
            raise ConfigurationError(
                f"the shortest document has {min(whole)} positions, rows have "
                f"{self.config.row_length}; give --row-length {max(whole)} or more"
            )
        faults = Counter(plan.left_out for plan in plans if plan.left_out != FORGOTTEN)
        if faults:
            (fault, count), *_ = faults.most_common(1)
            raise ShardError(
                f"none of {read} samples can be learnt from; {count} of them: "
                f"{fault}. Look at the members of the shards, or write them again"
            )
        raise ConfigurationError(
            f"none of {read} samples has what its tasks need: describe wants a caption, answer "
            "a question (or --questions), chat a conversation that is answered (messages), edit an "
            "instruction and a source_uid or shards of edits, interleaved those of documents or "
            "pictures, continue those of videos; change the task mix (--tasks)"
        )

    def rows(self, state: StreamState) -> Iterator[RowPlan]:
        """Rows of all lanes without end from a state on, in their order: step by step, lane by
        lane."""
        lanes = [self.rows_of_lane(lane) for lane in state.lanes]
        while True:
            for lane in lanes:
                yield next(lane)[0]

    def rows_of_lane(self, state: LaneState) -> Iterator[tuple[RowPlan, LaneState]]:
        """Rows of a lane without end from a state on, each with the state after it."""
        while True:
            rows, after = self.block(state)
            for number in range(state.row, len(rows)):
                after_this = after if number + 1 == len(rows) else replace(state, row=number + 1)
                here = replace(after_this, rows=state.rows + number + 1 - state.row)
                yield rows[number], here
            state = replace(after, rows=state.rows + len(rows) - state.row)
