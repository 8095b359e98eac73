"""Cross entropy in parts is that of all labels at once, and holds no more than a part."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gristmill.model.network import cross_entropy
from gristmill.model.network.cross_entropy import chunked_cross_entropy

LABELS, IDS, WIDTH = 96, 700, 16


class _Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation gives."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.numel())
        return out


def _inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(LABELS, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(IDS, WIDTH, generator=generator, dtype=dtype).requires_grad_()
    labels = torch.randint(IDS, (LABELS,), generator=generator)
    return hidden, weight, labels, torch.rand(LABELS, generator=generator)


def _loss(entropies: Tensor, partitions: Tensor, weights: Tensor) -> Tensor:
    return (weights * entropies).sum() + 1e-2 * (weights * partitions**2).sum()


@pytest.mark.parametrize("bf16", [False, True])
def test_losses_and_gradients_are_those_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    monkeypatch.setattr(cross_entropy, "_AT_ONCE", 7 * IDS)
    hidden, weight, labels, weights = _inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = F.linear(hidden, weight).float()
        expected = F.cross_entropy(logits, labels, reduction="none")
        partition = logits.logsumexp(dim=1)
        _loss(expected, partition, weights).backward()
    gradients = [hidden.grad, weight.grad]
    hidden.grad = weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = chunked_cross_entropy(hidden, weight, labels)
        _loss(*found, weights).backward()
    # Of bfloat16 the kernels sum in another order.
    close = {"rtol": 2e-2, "atol": 2e-2} if bf16 else {"rtol": 1e-4, "atol": 1e-5}
    assert torch.allclose(found[0], expected, **close)
    assert torch.allclose(found[1], partition, **close)
    for mine, theirs in zip((hidden.grad, weight.grad), gradients, strict=True):
        assert mine is not None and theirs is not None
        assert torch.allclose(mine, theirs, **close)


def test_logits_of_all_labels_are_never_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_AT_ONCE", 8 * IDS)
    seen = []
    for count in (LABELS // 2, LABELS):
        hidden, weight, labels, weights = _inputs(torch.float32)
        with _Largest() as largest:
            found = chunked_cross_entropy(hidden[:count], weight, labels[:count])
            _loss(*found, weights[:count]).backward()
        seen.append(largest.numbers)
    assert seen == [IDS * WIDTH] * 2


def test_no_label_has_no_loss_and_a_gradient_all_the_same() -> None:
    hidden, weight, labels, weights = _inputs(torch.float32)
    found = chunked_cross_entropy(hidden[:0], weight, labels[:0])
    _loss(*found, weights[:0]).backward()
    assert weight.grad is not None and not weight.grad.any()
