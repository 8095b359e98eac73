"""Samples that could not be read: counted over all ranks, and a limit to them."""

from __future__ import annotations

from collections import Counter

import torch

from gristmill.errors import TrainingError
from gristmill.model.distributed.ranks import world_size
from gristmill.model.documents.batch import LostSample, PackedBatch

# The share is that of so many documents at least, or chance would stop a training that begins.
_FEWEST = 100


class LostCount:
    """Documents of all ranks so far, and those that learnt nothing as their sample could not be
    read. The same on every rank."""

    def __init__(self, limit: float) -> None:
        """`limit`: share of documents that may be lost."""
        self.limit = limit
        self.documents = self.lost = 0
        self._reasons: Counter[str] = Counter()
        self._last: LostSample | None = None

    def add(self, batch: PackedBatch, device: torch.device) -> list[LostSample]:
        """Count a step; returns what all ranks lost in it, by shard and key."""
        found = list(batch.lost)
        totals = torch.tensor([batch.documents, len(found)], device=device)
        if world_size() > 1:
            torch.distributed.all_reduce(totals)
            if totals[1]:
                gathered: list[list[LostSample]] = [[] for _ in range(world_size())]
                torch.distributed.all_gather_object(gathered, found)
                found = [sample for part in gathered for sample in part]
        self.documents += int(totals[0])
        self.lost += int(totals[1])
        found.sort(key=lambda sample: (sample.shard, sample.key))
        self._reasons.update(sample.reason for sample in found)
        self._last = found[-1] if found else self._last
        return found

    def check(self, *, last: bool = False) -> None:
        """Raise `TrainingError` if more are lost than may be, or, after the last step, all are."""
        none_left = last and self.limit < 1 and self.lost == self.documents
        if self.lost <= self.limit * max(self.documents, _FEWEST) and not none_left:
            return
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in self._reasons.most_common(3))
        example = f", such as {self._last.key} of {self._last.shard}" if self._last else ""
        raise TrainingError(
            f"{self.lost:,} of {self.documents:,} documents could not be read, more than max_lost "
            f"({self.limit:.3g}) allows: {reasons}{example}; lost.jsonl names all. Mend the shards "
            "or leave them out, or allow more (--set max_lost=SHARE) and go on from the last "
            "checkpoint"
        )
