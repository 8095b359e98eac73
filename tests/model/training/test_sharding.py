"""Weights lie evenly on all ranks, whatever the paradigm, the experts and the number of ranks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore

from gristmill.errors import ConfigurationError
from gristmill.model.distributed.local_parts import local, local_slices
from gristmill.model.documents.paradigms import PARADIGMS, find_paradigm
from gristmill.model.network.configurations import for_paradigm, nano
from gristmill.model.network.initial_weights import fill
from gristmill.model.network.model_config import EXPERTS
from gristmill.model.network.transformer import Transformer
from gristmill.model.training.sharding import materialise, shard, shard_dim, unevenness

CPU = torch.device("cpu")


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Iterator[int]:
    """This process is the last of so many ranks, of which the others do nothing."""
    count: int = request.param
    torch.distributed.init_process_group(
        "fake", store=FakeStore(), rank=count - 1, world_size=count
    )
    yield count
    torch.distributed.destroy_process_group()


def _model(paradigm: str, experts: str) -> Transformer:
    config = for_paradigm(
        nano(627, experts=experts), find_paradigm(paradigm), latent_channels=8, semantic_width=24
    )
    with torch.device("meta"):
        return Transformer(config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ranks", [4], indirect=True)
@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize("replicate", [1, 2])
def test_no_rank_holds_more_than_its_part(ranks: int, experts: str, replicate: int) -> None:
    for paradigm in PARADIGMS:
        model = _model(paradigm, experts)
        total = sum(parameter.numel() for parameter in model.parameters())
        shard(model, CPU, replicate=replicate, bf16=False)
        materialise(model, CPU)
        held = sum(local(parameter).numel() for parameter in model.parameters())
        # The last rank has least; what the first has most of, no rank can have more of.
        shapes = [tuple(parameter.shape) for parameter in model.parameters()]
        part = total * replicate / ranks
        assert 0.9 * part <= held <= 1.1 * part
        assert unevenness(shapes, ranks // replicate) <= 1.1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ranks", [4], indirect=True)
def test_a_part_begins_as_that_part_of_the_whole(ranks: int) -> None:
    alone, shared = _model("query", "mot"), _model("query", "mot")
    materialise(alone, CPU)
    fill(alone, seed=3)
    shard(shared, CPU, replicate=2, bf16=False)
    materialise(shared, CPU)
    fill(shared, seed=3)
    whole = dict(alone.named_parameters())
    for name, parameter in shared.named_parameters():
        assert torch.equal(local(parameter), whole[name][local_slices(parameter)]), name
    buffers = dict(alone.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in shared.named_buffers())
    assert float(buffers["rotary.frequencies"].max()) == 1.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ranks", [10], indirect=True)
def test_ranks_that_cannot_share_evenly_are_told_what_can(ranks: int) -> None:
    with pytest.raises(ConfigurationError, match=r"10 ranks cannot.*--replicate 5 \(5 whole"):
        shard(_model("ar", "dense"), CPU, replicate=1, bf16=False)
    with pytest.raises(ConfigurationError, match=r"--replicate 4: 10 ranks cannot hold"):
        shard(_model("ar", "dense"), CPU, replicate=4, bf16=False)


def test_parameters_are_cut_along_rows() -> None:
    assert shard_dim((8, 64, 32), 4) == 1
    assert shard_dim((1, 6, 32), 4) == 2
    # A hair uneven, and gathered without a copy.
    assert shard_dim((152_001, 64), 4) == 0
    assert shard_dim((2, 64), 4) == 1
    assert shard_dim((64,), 4) == 0
    assert unevenness([(1, 64, 32)], 4) == 1.0 and unevenness([(1, 3, 5)], 4) == 4.0
