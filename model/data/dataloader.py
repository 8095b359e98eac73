"""Packed batches straight from shards. A rank plans the lanes that are its own, which looks at
captions and sizes only, and opens the pictures of their rows.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Generator, Iterator

import torch

from gristmill.errors import ConfigurationError, SampleError
from gristmill.model.data.image_tokenizer import ImageTokenizer
from gristmill.model.data.planner import (
    FORGOTTEN,
    DocumentPlan,
    Planner,
    RowPlan,
    StreamConfig,
)
from gristmill.model.data.stream import LaneState, StreamState
from gristmill.model.data.task_mix import generator
from gristmill.model.documents.batch import Document, LostSample, PackedBatch, pack
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import Content, ImageSegment
from gristmill.stop_signals import ignore_stops


class PackedRowBuilder(torch.utils.data.Dataset[list[Document]]):
    """Opens the pictures of a planned row and writes its documents."""

    def __init__(self, planner: Planner, image_tokenizer: ImageTokenizer) -> None:
        self.planner, self.image_tokenizer = planner, image_tokenizer

    def __getitem__(self, plan: RowPlan) -> list[Document]:
        return [self._named(document) for document in plan] or [self.planner.writer.nothing()]

    def _named(self, plan: DocumentPlan) -> Document:
        document = self.build(plan)
        document.uid = self.planner.columns(plan.source, plan.shard, plan.row)["uid"]
        return document

    def build(self, plan: DocumentPlan) -> Document:
        """One document; one that learns nothing, of the same length, if its sample cannot be
        read."""
        writer = self.planner.writer
        reason = plan.left_out
        if not reason:
            try:
                contents = self._contents(plan)
            except SampleError as error:
                reason = str(error)
            else:
                rng = generator(*plan.seed, 2)
                return writer.write(plan.segments, contents, rng, source=plan.source)
        blank = writer.blank(plan.segments, plan.grids, source=plan.source)
        if reason != FORGOTTEN:
            shard = self.planner.samples[plan.source].file(plan.shard)
            key = self.planner.columns(plan.source, plan.shard, plan.row)["uid"]
            blank.lost = LostSample(shard, key, reason)
        return blank

    def _contents(self, plan: DocumentPlan) -> list[Content]:
        """The pictures of a document; those that are not shown are left empty."""
        contents = []
        if any(isinstance(segment, ImageSegment) for segment in plan.segments):
            shown = {s.number for s in plan.segments if isinstance(s, ImageSegment)}
            contents = [
                self.content(plan.source, *place, grid) if number in shown else Content(grid)
                for number, (place, grid) in enumerate(zip(plan.pictures, plan.grids, strict=True))
            ]
        return contents

    def content(self, source: int, shard: int, row: int, number: int, grid: PictureGrid) -> Content:
        """What the model sees of one picture of a sample: its stored tokens, or its pixels
        tokenized, of that grid."""
        columns = self.planner.columns(source, shard, row)
        samples = self.planner.samples[source]
        if not self.image_tokenizer.needs_pixels(columns):
            number = self.planner.stored_number(source, columns, number)
            try:
                content = self.image_tokenizer.stored(columns, number)
            except ConfigurationError as error:
                raise SampleError(str(error)) from error
            if content.grid != grid:
                raise SampleError("stored tokens have another grid than was planned")
            return content
        return self.image_tokenizer.tokenize_cached(
            (source, shard, row, number),
            lambda: samples.picture(shard, row, number, self.planner.frames(source, columns)),
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
            PackedRowBuilder(planner, image_tokenizer),
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
    """A sampler of row plans."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[RowPlan]]:
        return self._loader.plans()

    def __reduce__(self) -> tuple[type[list[object]], tuple[()]]:
        # Workers are handed plans; they need no sampler.
        return (list, ())
