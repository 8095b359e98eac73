"""Parts of a model that do not learn, and parts that learn at a rate of their own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.training.model_parts import belongs, rate_factor
from gristmill.model.training.optimizer import learning_rate
from gristmill.model.training.settings import _parsed
from gristmill.model.training.train import Trainer, steps_of
from gristmill.model.training.train_config import TrainConfig, changed
from gristmill.model.training.train_meter import Meter
from gristmill.model.training.training_setup import make_setup

Make = Callable[..., TrainConfig]
FROZEN = ("embed", "blocks.0", "latent_in", "norm")


def _trained(config: TrainConfig, steps: int = 2) -> tuple[dict[str, Tensor], Trainer]:
    """Weights before, and the trainer after some steps."""
    setup = make_setup(config)
    trainer = Trainer(config, setup, torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    batches = steps_of(config, setup)
    for _ in range(steps):
        batch: PackedBatch = next(batches)
        trainer._update(batch, Meter(setup.vocabulary, setup.titles))
        trainer.step += 1
    return before, trainer


@pytest.mark.parametrize("optimiser", ["adamw", "muon"])
def test_a_frozen_part_keeps_its_bits(config: Make, optimiser: str) -> None:
    made = config("flow", freeze=FROZEN, optimiser=optimiser, weight_decay=0.5)
    before, trainer = _trained(made)
    for name, parameter in trainer.model.named_parameters():
        frozen = any(belongs(name, prefix) for prefix in FROZEN)
        assert torch.equal(parameter, before[name]) == frozen, name
        # What does not learn has no average, and is what it is.
        average = trainer.average.weights(trainer.model)[name]
        assert torch.equal(average, before[name]) == frozen, name
        assert (name in trainer.average.values) != frozen, name
        assert (parameter.grad is None) == frozen, name


def test_a_part_learns_at_its_factor_of_the_rate(config: Make) -> None:
    rates = {"lm": 0.1, "blocks": 2, "blocks.1": 0}
    before, trainer = _trained(config(rates=rates, weight_decay=0.0, clip=1e9), steps=1)
    rate = learning_rate(0, steps=12, peak=3e-3, schedule="cosine", warmup=2)
    for name, parameter in trainer.model.named_parameters():
        moved = float((parameter.detach() - before[name]).abs().max())
        # The first step of AdamW is as long as its rate.
        assert moved == pytest.approx(rate * rate_factor(name, rates), rel=1e-2, abs=1e-9), name


def test_parts_are_told_from_one_another() -> None:
    assert belongs("blocks.1.attention.qkv.weight", "blocks.1")
    assert belongs("blocks.1.attention.qkv.weight", "blocks.")
    assert not belongs("blocks.10.attention.qkv.weight", "blocks.1")
    assert belongs("lm.weight", "lm.weight") and not belongs("lm_head.weight", "lm")


def test_settings_of_parts_are_typed_and_kept(config: Make) -> None:
    values = _parsed(["freeze=[embed, blocks.0]", "rates={lm: 0.1}"])
    assert values == {"freeze": ("embed", "blocks.0"), "rates": {"lm": 0.1}}
    made = config(**values)
    assert TrainConfig.from_dict(made.to_dict()) == made
    assert changed(config().to_dict(), made)[0].startswith("freeze: [] -> ['embed', 'blocks.0']")


def test_wrong_parts_are_named(config: Make) -> None:
    for changes, message in (
        ({"freeze": ("block",)}, r"freeze: the model has no part 'block'; did you mean 'blocks'"),
        ({"rates": {"heads": 1.0}}, r"rates: the model has no part 'heads'.*embed"),
        ({"freeze": ("embed", "place_in", "blocks", "norm", "lm")}, "nothing to learn"),
    ):
        made = config(**changes)
        with pytest.raises(ConfigurationError, match=message):
            Trainer(made, make_setup(made), torch.device("cpu"))
    with pytest.raises(ConfigurationError, match=r"rates: lm has 'slow'"):
        config(rates={"lm": "slow"}).check()
    for setting, message in (("freeze=embed", "is a list"), ("rates=0.1", "write rates={NAME")):
        with pytest.raises(ConfigurationError, match=message):
            _parsed([setting])
