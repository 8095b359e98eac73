"""What a first hour on a GPU would compile: graphs of blocks and of masks, counted on the CPU."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.attention.flex_attention import create_block_mask

from gristmill.model.network import blocks, experts
from gristmill.model.network.attention import Mask, TokenMeta, block_mask
from gristmill.model.network.blocks import Context
from gristmill.model.network.configurations import nano
from gristmill.model.network.experts import Sorting
from gristmill.model.network.transformer import Transformer
from gristmill.model.training.train import compile_blocks

LENGTH = 256


@pytest.fixture(autouse=True)
def _forgotten_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _places(document: int) -> TokenMeta:
    """Two rows of documents of so many positions, whose first halves are pictures."""
    at = torch.arange(LENGTH).expand(2, LENGTH)
    doc = (at // document).contiguous()
    spanned = at % document < document // 2
    return TokenMeta(at, doc, torch.where(spanned, doc, -1), spanned.long())


def _context(model: Transformer, mask: Mask) -> Context:
    pos = torch.arange(LENGTH)[None, :, None].expand(2, LENGTH, 3)
    expert = torch.randint(0, 2, (2 * LENGTH,))
    mixed = model.config.experts == "mot"
    return Context(
        mask, *model.rotary(pos), expert if mixed else None,
        Sorting.of(expert, 2) if mixed else None, torch.ones(2 * LENGTH, dtype=torch.bool),
    )  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dense", "mot", "moe"])
def test_all_blocks_and_batches_are_one_graph(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    # The kernel that does all experts on CUDA has a double on the CPU.
    monkeypatch.setattr(experts, "_together", lambda device: True)
    # What checks shapes in tests is no part of the model.
    monkeypatch.setattr(blocks, "rotate", inspect.unwrap(blocks.rotate))
    model = Transformer(nano(64, experts=kind, layers=3))
    graphs = CompileCounter()
    compile_blocks(model, backend=graphs, fullgraph=True)
    for document in (40, 64, 100):
        context = _context(model, block_mask(_places(document)))
        x = torch.randn(2 * LENGTH, 48)
        for block in model.blocks:
            x, _ = block(x, (2, LENGTH), context)
    assert graphs.frame_count == 1


def test_masks_are_compiled_once_and_are_the_same() -> None:
    graphs = CompileCounter()
    build = torch.compile(create_block_mask, backend=graphs)
    for document in (40, 64, 100):
        places = _places(document)
        made, plain = block_mask(places, build), block_mask(places)
        assert torch.equal(made.kv_num_blocks, plain.kv_num_blocks)
        assert torch.equal(made.to_dense(), plain.to_dense())
    assert graphs.frame_count == 1
