"""Packed batches straight from shards. A rank plans the lanes that are its own, which looks at
captions and sizes only, and sends its workers no more than what they open.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch

from gristmill.errors import ConfigurationError, SampleError
from gristmill.model.data.image_tokenizer import ImageTokenizer
from gristmill.model.data.picture_files import Spot
from gristmill.model.data.planner import FORGOTTEN, DocumentPlan, Planner, RowPlan, StreamConfig
from gristmill.model.data.shard_sources import Samples
from gristmill.model.data.stream import LaneState, StreamState
from gristmill.model.data.task_mix import generator
from gristmill.model.documents.batch import Document, LostSample, PackedBatch, pack
from gristmill.model.documents.document_writer import DocumentWriter
from gristmill.model.documents.facts import SampleColumns
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import Content, ImageSegment
from gristmill.stop_signals import ignore_stops


@dataclass(frozen=True)
class PictureToRead:
    """One picture of a document: where it lies, or its stored tokens."""

    source: int
    spot: Spot
    number: int
    # Of a clip, those that are asked of it.
    frames: int
    # The columns with its tokens, and its number among those; None where pixels are wanted.
    stored: SampleColumns | None = None
    stored_number: int = 0


@dataclass(frozen=True)
class DocumentToRead:
    """A planned document with all that its builder needs of its sample."""

    plan: DocumentPlan
    # The uid.
    key: str
    # By the numbers that segments give them; None for one that is not shown.
    pictures: tuple[PictureToRead | None, ...] = ()


def document_to_read(planner: Planner, plan: DocumentPlan) -> DocumentToRead:
    """What the builder of a document is sent."""
    key = planner.columns(plan.source, plan.shard, plan.row)["uid"]
    if plan.left_out:
        return DocumentToRead(plan, key)
    shown = {s.number for s in plan.segments if isinstance(s, ImageSegment)}
    pictures = tuple(
        picture_to_read(planner, plan.source, *place) if number in shown else None
        for number, place in enumerate(plan.pictures)
    )
    return DocumentToRead(plan, key, pictures)


def picture_to_read(
    planner: Planner, source: int, shard: int, row: int, number: int
) -> PictureToRead:
    """What the reader of one picture of a sample is sent."""
    columns = planner.columns(source, shard, row)
    spot, frames = planner.samples[source].spot(shard, row), planner.frames(source, columns)
    if planner.image_tokenizer.needs_pixels(columns):
        return PictureToRead(source, spot, number, frames)
    stored = planner.image_tokenizer.token_columns(columns)
    at = planner.stored_number(source, columns, number)
    return PictureToRead(source, spot, number, frames, stored, at)


class PackedRowBuilder(torch.utils.data.Dataset[list[Document]]):
    """Opens the pictures of a planned row and writes its documents."""

    def __init__(
        self, samples: Sequence[Samples], writer: DocumentWriter, image_tokenizer: ImageTokenizer
    ) -> None:
        self.samples, self.writer, self.image_tokenizer = list(samples), writer, image_tokenizer

    def __getitem__(self, row: Sequence[DocumentToRead]) -> list[Document]:
        return [self._named(document) for document in row] or [self.writer.nothing()]

    def _named(self, document: DocumentToRead) -> Document:
        built = self.build(document)
        built.uid = document.key
        return built

    def build(self, document: DocumentToRead) -> Document:
        """One document; one that learns nothing, of the same length, if its sample cannot be
        read."""
        plan, writer = document.plan, self.writer
        reason = plan.left_out
        if not reason:
            try:
                contents = [
                    Content(grid) if picture is None else self.content(picture, grid)
                    for picture, grid in zip(document.pictures, plan.grids, strict=True)
                ]
            except SampleError as error:
                reason = str(error)
            else:
                rng = generator(*plan.seed, 2)
                return writer.write(plan.segments, contents, rng, source=plan.source)
        blank = writer.blank(plan.segments, plan.grids, source=plan.source)
        if reason != FORGOTTEN:
            shard = self.samples[plan.source].file(plan.shard)
            blank.lost = LostSample(shard, document.key, reason)
        return blank

    def content(self, picture: PictureToRead, grid: PictureGrid) -> Content:
        """What the model sees of a picture: its stored tokens, or its pixels tokenized, of that
        grid."""
        if picture.stored is not None:
            try:
                content = self.image_tokenizer.stored(picture.stored, picture.stored_number)
            except ConfigurationError as error:
                raise SampleError(str(error)) from error
            if content.grid != grid:
                raise SampleError("stored tokens have another grid than was planned")
            return content
        samples, spot = self.samples[picture.source], picture.spot
        return self.image_tokenizer.tokenize_cached(
            (picture.source, spot.shard, spot.row, picture.number),
            lambda: samples.picture_at(spot, picture.number, picture.frames),
            grid,
        )


class Loader:
    """Batches of one rank, and the state of the stream after each.

    `workers` processes open pictures ahead; with none it is done in this process. The batches are
    the same either way.
    """

    def __init__(
        self,
        planner: Planner,
        image_tokenizer: ImageTokenizer,
        config: StreamConfig,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        state: StreamState | None = None,
    ) -> None:
        if config.rows_per_step < world:
            raise ConfigurationError(
                f"{config.rows_per_step} rows a step for {world} ranks: some would have none; "
                f"give --rows {world} or more, or start fewer ranks"
            )
        self.planner, self.config = planner, config
        self.rank, self.world = rank, world
        self.state = state or planner.start()
        before = len(self.state.lanes[0].cursors)
        if before != len(planner.sources):
            raise ConfigurationError(
                f"the checkpoint was trained on {before} sources, "
                f"{len(planner.sources)} are given; give the same, in the same order"
            )
        self._states: deque[list[LaneState]] = deque()
        self._loader = torch.utils.data.DataLoader(
            PackedRowBuilder(planner.samples, planner.writer, image_tokenizer),
            batch_sampler=_Plans(self),
            num_workers=workers,
            collate_fn=functools.partial(pack, length=config.row_length),
            prefetch_factor=4 if workers else None,
            multiprocessing_context="spawn" if workers else None,
            # The step that is at work when a scheduler signals needs its rows yet.
            worker_init_fn=ignore_stops,
        )

    @property
    def lanes(self) -> range:
        """Those of this rank: of the rows of a step, every `world`-th."""
        return range(self.rank, self.planner.lanes, self.world)

    def plans(self) -> Iterator[list[RowPlan]]:
        """The rows of this rank, step by step."""
        streams = [self.planner.rows_of_lane(self.state.lanes[lane]) for lane in self.lanes]
        # All ranks have as many rows, some of them empty: collectives must meet.
        empty = -(-self.planner.lanes // self.world) - len(streams)
        while True:
            step = [next(stream) for stream in streams]
            self._states.append([after for _, after in step])
            yield [plan for plan, _ in step] + [()] * empty

    def __iter__(self) -> Generator[PackedBatch, None, None]:
        """Batches without end; `state` is that after the batch last given, of this rank's lanes."""
        self._states.clear()
        # What iterates is held by this loop alone: where that ends, or is closed, workers end. They
        # heed no signal by which Python would end them as it exits, and it would wait for them.
        for batch in self._loader:
            self.state = self.state.with_lanes(self._states.popleft())
            yield batch


class _Plans:
    """A sampler of rows to read."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[list[DocumentToRead]]]:
        planner = self._loader.planner
        for step in self._loader.plans():
            yield [[document_to_read(planner, plan) for plan in row] for row in step]

    def __reduce__(self) -> tuple[type[list[object]], tuple[()]]:
        # Workers are handed plans; they need no sampler.
        return (list, ())
