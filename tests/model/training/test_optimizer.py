"""What one step of Muon does, beside torch's own AdamW and beside one matrix at a time."""

from __future__ import annotations

import copy

import torch
from torch import nn

from gristmill.model.training.optimizer import Muon, make_optimizer, orthogonalise


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(12, 20, bias=False)
        self.down = nn.Linear(12, 20, bias=False)
        self.up.weight = nn.Parameter(torch.randn(2, 20, 12))
        self.down.weight = nn.Parameter(torch.randn(2, 20, 12))


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([_Block(), _Block()])
        self.lm = nn.Linear(6, 9)

    def give_gradients(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)


def _muon(model: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(model, name="muon", rate=0.01, weight_decay=0.1, betas=(0.9, 0.95))


def test_orthogonal_matrices_come_out() -> None:
    torch.manual_seed(0)
    for shape in ((3, 8, 24), (3, 24, 8)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert float(values.min()) > 0.5 and float(values.max()) < 1.5


def test_matrices_taken_together_move_as_each_alone() -> None:
    torch.manual_seed(0)
    model = _Model()
    before, optimizer = copy.deepcopy(model), _muon(model)
    assert isinstance(optimizer, Muon)
    momentum = torch.zeros(2, 20, 12)
    expected = before.blocks[1].down.weight.detach().clone()
    for step in range(3):
        model.give_gradients(step)
        gradient = model.blocks[1].down.weight.grad
        optimizer.step()
        momentum = momentum + 0.05 * (gradient - momentum)
        update = orthogonalise(gradient + 0.95 * (momentum - gradient)) * 0.2 * 20**0.5
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * update
    assert torch.allclose(model.blocks[1].down.weight, expected, atol=1e-5)


def test_what_is_no_matrix_of_a_block_moves_as_by_adamw() -> None:
    torch.manual_seed(0)
    model = _Model()
    other = copy.deepcopy(model)
    ours, theirs = (
        _muon(model),
        torch.optim.AdamW(
            [
                {"params": [other.lm.weight], "weight_decay": 0.1},
                {"params": [other.lm.bias], "weight_decay": 0.0},
            ],
            lr=0.01,
            betas=(0.9, 0.95),
        ),
    )
    for step in range(3):
        model.give_gradients(step)
        other.give_gradients(step)
        ours.step()
        theirs.step()
    assert torch.allclose(model.lm.weight, other.lm.weight, atol=1e-6)
    assert torch.allclose(model.lm.bias, other.lm.bias, atol=1e-6)


def test_biases_of_experts_are_no_matrices() -> None:
    model = _Model()
    model.blocks[0].up.bias = nn.Parameter(torch.zeros(2, 20))
    for name in ("muon", "adamw"):
        optimizer = make_optimizer(model, name=name, rate=0.01, weight_decay=0.1, betas=(0.9, 0.95))
        for group in optimizer.param_groups:
            if any(parameter is model.blocks[0].up.bias for parameter in group["params"]):
                assert group["weight_decay"] == 0 and not group.get("muon")
                break
        else:
            raise AssertionError("the bias is learnt by nobody")
