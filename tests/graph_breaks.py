"""Graphs that a compiler makes of blocks, and whether it can make one where FSDP gathers weights;
as JSON, by kind of experts. A process of its own: checks of shapes, which tests run with, break
graphs."""

from __future__ import annotations

import json
import warnings

import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from gristmill.model.documents.batch import PackedBatch
from gristmill.model.network import experts as expert_maps
from gristmill.model.network.attention import TokenMeta, make_mask
from gristmill.model.network.configurations import nano
from gristmill.model.network.initial_weights import fill
from gristmill.model.network.model_config import EXPERTS
from gristmill.model.network.transformer import Transformer
from gristmill.model.training.sharding import materialise, shard
from gristmill.model.training.train import compile_blocks

CPU = torch.device("cpu")


def two_rows() -> PackedBatch:
    """Text, every other position of the other expert."""
    plain = torch.arange(32).view(2, 16)
    none, nowhere = torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)
    return PackedBatch(
        ids=plain, labels=plain, weight=torch.ones(2, 16),
        doc=torch.zeros(2, 16, dtype=torch.int32),
        span=torch.full((2, 16), -1, dtype=torch.int32),
        attn_mode=torch.zeros(2, 16, dtype=torch.uint8), expert=(plain % 2).to(torch.uint8),
        pos=plain[:, :, None].expand(-1, -1, 3).to(torch.int32),
        latent=none, latent_idx=nowhere, latent_t=none.flatten(),
        latent_loss=none.flatten(), latent_eps=none,
        latent_place=torch.zeros(0, 2, dtype=torch.int32), semantic=none, semantic_idx=nowhere,
        semantic_spans=[], source=[[0], [0]],
    )  # fmt: skip


def graphs(experts: str) -> tuple[int, int]:
    """Graphs and breaks of one block."""
    batch, model = two_rows(), Transformer(nano(300, experts=experts))
    rows, length = batch.ids.shape
    index = torch.arange(length).expand(rows, length)
    mask = make_mask(TokenMeta(index, batch.doc, batch.span, batch.attn_mode))
    x = model.embed_batch(batch).view(rows * length, -1)
    context = model._context(mask, batch)
    found = torch._dynamo.explain(model.blocks[0].forward)(x, (rows, length), context)
    return found.graph_count, found.graph_break_count


def losses_of_whole_graphs(experts: str) -> int:
    """Losses of a sharded model whose blocks may not break."""
    with torch.device("meta"):
        model = Transformer(nano(300, experts=experts))
    shard(model, CPU, replicate=2, bf16=True)
    materialise(model, CPU)
    fill(model, seed=0)
    compile_blocks(model, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        return len(model(two_rows()).entropies)


def main() -> None:
    """Count, by grouped matmuls as on a GPU."""
    warnings.simplefilter("ignore")
    expert_maps._together = lambda device: True
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    print(json.dumps({kind: [*graphs(kind), losses_of_whole_graphs(kind)] for kind in EXPERTS}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
