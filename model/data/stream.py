"""Where a stream of rows is, as a checkpoint keeps it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace

import torch

from gristmill.errors import TrainingError
from gristmill.model.distributed.ranks import all_ranks, world_size
from gristmill.model.documents.facts import StreamFacts


@dataclass(frozen=True)
class LaneState:
    """Where one lane is: the next row, counted within a block, and what each source had given to
    the lane before that block."""

    lane: int = 0
    block: int = 0
    row: int = 0
    cursors: tuple[int, ...] = ()
    # Rows that were handed out, and documents that were left out because they were longer than a
    # row, or had nothing for any task.
    rows: int = 0
    too_long: int = 0
    unusable: int = 0
    # Of the documents handed out, parts of what was longer than a row.
    windowed: int = 0


_COUNTS = ("block", "row", "rows", "too_long", "unusable", "windowed")


@dataclass(frozen=True)
class StreamState:
    """Where all lanes are. A rank knows its own; see `whole`."""

    lanes: tuple[LaneState, ...] = field(default_factory=tuple)

    @classmethod
    def start(cls, lanes: int, sources: int) -> StreamState:
        """That of a stream that has given nothing."""
        return cls(tuple(LaneState(lane, cursors=(0,) * sources) for lane in range(lanes)))

    @classmethod
    def from_facts(cls, facts: StreamFacts, path: str) -> StreamState:
        """What `to_dict` wrote into the file `path`. Raises `TrainingError` for the stream of an
        earlier version, whose rows came in another order."""
        if not isinstance(facts["block"], list):
            raise TrainingError(
                f"{path} is of an earlier version of gristmill, whose data came in another order: "
                "go on with the version that wrote it, or begin another training with its weights "
                "(--init)"
            )
        counts = zip(*(facts[name] for name in _COUNTS), facts["cursors"], strict=True)  # type: ignore[literal-required]
        return cls(
            tuple(
                LaneState(lane, cursors=tuple(cursors), **dict(zip(_COUNTS, values, strict=True)))
                for lane, (*values, cursors) in enumerate(counts)
            )
        )

    def to_dict(self) -> StreamFacts:
        """For a checkpoint: each count as a list over lanes."""
        return {
            "block": [lane.block for lane in self.lanes],
            "row": [lane.row for lane in self.lanes],
            "cursors": [list(lane.cursors) for lane in self.lanes],
            "rows": [lane.rows for lane in self.lanes],
            "too_long": [lane.too_long for lane in self.lanes],
            "unusable": [lane.unusable for lane in self.lanes],
            "windowed": [lane.windowed for lane in self.lanes],
        }

    def with_lanes(self, lanes: Collection[LaneState]) -> StreamState:
        """The same with some of the lanes where they are now."""
        found = list(self.lanes)
        for lane in lanes:
            found[lane.lane] = lane
        return replace(self, lanes=tuple(found))

    def whole(self, own: Collection[int], device: torch.device) -> StreamState:
        """With every lane as the rank that has it knows it; `own`: those of this rank. All ranks
        call."""
        if world_size() == 1:
            return self
        values = torch.zeros(len(self.lanes), len(_COUNTS) + len(self.lanes[0].cursors))
        table = values.to(torch.int64)
        for number in own:
            lane = self.lanes[number]
            counts = [getattr(lane, name) for name in _COUNTS]
            table[number] = torch.tensor([*counts, *lane.cursors])
        found = all_ranks(table.to(device)).tolist()
        lanes = (
            LaneState(
                number,
                cursors=tuple(line[len(_COUNTS) :]),
                **dict(zip(_COUNTS, line[: len(_COUNTS)], strict=True)),
            )
            for number, line in enumerate(found)
        )
        return StreamState(tuple(lanes))

    @property
    def rows(self) -> int:
        """Rows that were handed out."""
        return sum(lane.rows for lane in self.lanes)

    @property
    def read(self) -> int:
        """Samples that were read, over all epochs."""
        return sum(sum(lane.cursors) for lane in self.lanes)

    @property
    def too_long(self) -> int:
        """Documents left out because they were longer than a row."""
        return sum(lane.too_long for lane in self.lanes)

    @property
    def unusable(self) -> int:
        """Samples that had nothing for any task."""
        return sum(lane.unusable for lane in self.lanes)

    @property
    def windowed(self) -> int:
        """Documents that were parts of what was longer than a row."""
        return sum(lane.windowed for lane in self.lanes)
