"""What blocks give beside their output."""

from __future__ import annotations

import dataclasses

import torch
from model_world import World

from gristmill.model.documents.batch import PackedBatch
from gristmill.model.network.configurations import nano
from gristmill.model.network.transformer import Transformer, balance
from gristmill.model.training.train import steps_of
from gristmill.model.training.training_setup import make_setup


def _moe(world: World, tmp_path: object, **changes: object) -> tuple[Transformer, PackedBatch]:
    config = world.config(tmp_path, experts="moe", **changes)  # type: ignore[arg-type]
    setup = make_setup(config)
    return Transformer(setup.model_config), next(steps_of(config, setup))


def test_padding_has_no_say_in_the_balance_of_experts(world: World, tmp_path: object) -> None:
    model, batch = _moe(world, tmp_path)
    losses = model(batch)
    found = balance(losses.routed, losses.shares, batch.tokens)
    assert float(losses.routed.sum(dim=1)[0]) == 2 * batch.tokens
    # Rows of twice the length, the new half all padding.
    longer = {
        name: torch.cat([value := getattr(batch, name), torch.full_like(value, empty)], dim=1)
        for name, empty in {
            "ids": 0, "labels": -100, "weight": 0, "doc": -1, "span": -1, "attn_mode": 0,
            "expert": 0, "pos": 0,
        }.items()
    }  # fmt: skip
    losses = model(dataclasses.replace(batch, **longer))
    assert torch.allclose(balance(losses.routed, losses.shares, batch.tokens), found, rtol=1e-5)


def test_the_balance_of_rows_that_are_shared_out_is_that_of_all(
    world: World, tmp_path: object
) -> None:
    model, batch = _moe(world, tmp_path)
    whole = model(batch)
    expected = balance(whole.routed, whole.shares, batch.tokens)
    (gradient,) = torch.autograd.grad(expected, model.blocks[0].feed_forward.router.weight)
    parts = [model(part) for part in batch.split(1)]
    routed = torch.stack([part.routed for part in parts]).sum(dim=0)
    found = sum(balance(routed, part.shares, batch.tokens) for part in parts)
    assert isinstance(found, torch.Tensor) and torch.allclose(found, expected, rtol=1e-5)
    (shared,) = torch.autograd.grad(found, model.blocks[0].feed_forward.router.weight)
    assert torch.allclose(shared, gradient, rtol=1e-4, atol=1e-7)


def test_without_learned_experts_there_is_no_balance() -> None:
    model = Transformer(nano(300))
    assert model.config.experts == "dense"
    assert float(balance(torch.zeros(0, 0), torch.zeros(0, 0), 3.0)) == 0
