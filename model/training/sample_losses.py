"""The loss of every document of a training, kept on request: which samples are learnt, which are
known already, and which never fit."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from gristmill.model.distributed.ranks import first_rank_does, rank
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.documents.vocabulary import Vocabulary
from gristmill.model.network.transformer import Losses

FOLDER = "sample-losses"
KINDS = ("text", "codes", "flow")
SCHEMA = pa.schema(
    [("uid", pa.string()), ("step", pa.int64()), ("source", pa.string())]
    + [
        field
        for kind in KINDS
        for field in ((f"loss_{kind}", pa.float64()), (f"targets_{kind}", pa.int64()))
    ]
)
_NAME = re.compile(r"steps-(\d+)-(\d+)-rank-(\d+)\.parquet")


@dataclass(frozen=True)
class _Part:
    """Documents of one forward pass."""

    step: int
    uids: list[str]
    sources: list[int]
    # float64 [kinds, 2, documents]: sum of losses, and targets; on the device, as to look at them
    # would be to wait.
    sums: Tensor


class SampleLosses:
    """Of this rank, since the last checkpoint. What is written is of steps that a checkpoint
    covers: after any stop no step is there twice, and none is left out."""

    def __init__(self, folder: str, vocabulary: Vocabulary, titles: list[str]) -> None:
        self._folder = os.path.join(folder, FOLDER)
        self._first_code = min(vocabulary.code_starts, default=vocabulary.size)
        self._titles = titles
        self._parts: list[_Part] = []

    def begin(self, step: int) -> None:
        """Remove what was written of steps after `step`, which are done again. All ranks call."""

        def clean() -> None:
            if not os.path.isdir(self._folder):
                return
            for name in os.listdir(self._folder):
                found = _NAME.fullmatch(name)
                if found is None or int(found[2]) > step:
                    os.remove(os.path.join(self._folder, name))

        first_rank_does(clean)

    def add(self, step: int, batch: PackedBatch, losses: Losses) -> None:
        """Take note of a pass of a step, which is counted from 1."""
        sizes = [len(row) for row in batch.source]
        device = batch.doc.device
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0).to(device, non_blocking=True)
        document = (batch.doc.long() + starts[:, None]).reshape(-1)
        codes = batch.labels.reshape(-1)[losses.labelled] >= self._first_code
        sums = torch.zeros(len(KINDS), 2, sum(sizes), dtype=torch.float64, device=device)
        for kind, values, index, chosen in (
            (0, losses.entropies, losses.labelled, ~codes),
            (1, losses.entropies, losses.labelled, codes),
            (2, losses.flow_errors, losses.flow_index, None),
        ):
            if not len(values):
                continue
            counted = torch.ones_like(values) if chosen is None else chosen
            kept = values.double().where(counted.bool(), 0.0)
            sums[kind].index_add_(1, document[index], torch.stack([kept, counted.double()]))
        uids = [uid for row in batch.uids for uid in row]
        sources = [number for row in batch.source for number in row]
        self._parts.append(_Part(step, uids, sources, sums))

    def write(self) -> None:
        """Write what is noted, whole or not at all; before the checkpoint of the last step."""
        if not self._parts:
            return
        first, last = self._parts[0].step, self._parts[-1].step
        table = pa.concat_tables([self._table(part) for part in self._parts])
        os.makedirs(self._folder, exist_ok=True)
        path = os.path.join(self._folder, f"steps-{first:08d}-{last:08d}-rank-{rank():05d}.parquet")
        pq.write_table(table, path + ".partial", compression="zstd")
        os.replace(path + ".partial", path)
        self._parts.clear()

    def _table(self, part: _Part) -> pa.Table:
        sums, counts = part.sums.cpu().numpy().transpose(1, 0, 2)
        # Rows that fill a batch up are of no sample; a lost one learns nothing, see lost.jsonl.
        learnt = [at for at, uid in enumerate(part.uids) if uid and counts[:, at].any()]
        columns: dict[str, object] = {
            "uid": [part.uids[at] for at in learnt],
            "step": [part.step] * len(learnt),
            "source": [self._titles[part.sources[at]] for at in learnt],
        }
        for kind, total, count in zip(KINDS, sums, counts, strict=True):
            columns[f"loss_{kind}"] = [
                float(total[at] / count[at]) if count[at] else None for at in learnt
            ]
            columns[f"targets_{kind}"] = [int(count[at]) for at in learnt]
        return pa.table(columns, schema=SCHEMA)
