"""Means of a training between two lines of its log, over all ranks."""

from __future__ import annotations

import time
from collections import defaultdict

import torch
from torch import Tensor

from gristmill.model.distributed.ranks import world_size
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.documents.vocabulary import Vocabulary
from gristmill.model.network.transformer import Losses


class Meter:
    """Means since the last line: loss by modality and by source, tokens, waiting for data."""

    def __init__(self, vocabulary: Vocabulary, titles: list[str]) -> None:
        self._first_code = min(vocabulary.code_starts, default=vocabulary.size)
        self._titles = titles
        # Sum and count of each quantity; on the device, as to look at them would be to wait.
        self._sums: dict[str, Tensor] = {}
        self._tokens, self._waited, self._since = 0, 0.0, time.perf_counter()

    def losses(self, batch: PackedBatch, losses: Losses) -> None:
        """Take note of the losses of a batch."""
        codes = batch.labels.reshape(-1)[losses.labelled] >= self._first_code
        self._add("loss_text", losses.entropies, ~codes)
        self._add("loss_codes", losses.entropies, codes)
        self._add("loss_flow", losses.flow_errors)
        if len(self._titles) < 2:
            return
        source = self._sources(batch)
        for name, values, index in (
            ("code", losses.entropies, losses.labelled),
            ("flow", losses.flow_errors, losses.flow_index),
        ):
            for number, title in enumerate(self._titles):
                self._add(f"loss_{name}/{title}", values, source[index] == number)

    def _add(self, name: str, values: Tensor, chosen: Tensor | None = None) -> None:
        if not len(values):
            return
        here = torch.ones_like(values, dtype=torch.bool) if chosen is None else chosen
        found = torch.stack([values.double().where(here, 0.0).sum(), here.double().sum()])
        self._sums[name] = self._sums[name] + found if name in self._sums else found

    @staticmethod
    def _sources(batch: PackedBatch) -> Tensor:
        """[B * L]: number of the source of each position; -1 for padding."""
        most = max((len(row) for row in batch.source), default=0)
        table = torch.full((len(batch.source), most + 1), -1, dtype=torch.long)
        for number, row in enumerate(batch.source):
            table[number, : len(row)] = torch.tensor(row, dtype=torch.long)
        table = table.to(batch.doc.device)
        return table.gather(1, batch.doc.long() % (most + 1)).reshape(-1)

    def add(self, tokens: int, waited: float) -> None:
        """Take note of a step: positions of all ranks that are no padding, and the seconds that
        this one waited for data."""
        self._tokens += tokens
        self._waited += waited

    def take(self) -> dict[str, float]:
        """The means over all ranks, which all call, and start again. `data_wait` is the share of
        time of the rank that waited longest."""
        now = time.perf_counter()
        seconds = max(1e-9, now - self._since)
        sums = {name: tuple(pair.tolist()) for name, pair in self._sums.items()}
        found = [(sums, self._waited / seconds)]
        if world_size() > 1:
            found *= world_size()
            torch.distributed.all_gather_object(found, (sums, self._waited / seconds))
        totals: dict[str, float] = defaultdict(float)
        counts: dict[str, float] = defaultdict(float)
        for part, _ in found:
            for name, (total, count) in part.items():
                totals[name] += total
                counts[name] += count
        facts = {name: totals[name] / count for name, count in counts.items() if count}
        facts |= {"tokens_per_s": self._tokens / seconds, "data_wait": max(w for _, w in found)}
        self._sums.clear()
        self._tokens, self._waited, self._since = 0, 0.0, now
        return facts
