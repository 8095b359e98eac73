"""Maps with one weight per expert: what each token's own expert would have given alone."""

from __future__ import annotations

import torch

from gristmill.model.network.experts import ExpertLinear, ExpertNorm, Sorting


def _linear() -> ExpertLinear:
    torch.manual_seed(0)
    linear = ExpertLinear(3, 5, 4, bias=True)
    assert linear.bias is not None
    torch.nn.init.normal_(linear.weight)
    torch.nn.init.normal_(linear.bias)
    return linear


def test_each_token_has_the_weight_and_bias_of_its_expert() -> None:
    linear = _linear()
    assert linear.bias is not None
    # One expert has no token.
    expert = torch.tensor([2, 0, 2, 2, 0, 2])
    x = torch.randn(6, 5)
    sorting = Sorting.of(expert, 3)
    mapped = linear(x[sorting.order], sorting)[sorting.inverse]
    for token, chosen in enumerate(expert.tolist()):
        alone = linear.weight[chosen] @ x[token] + linear.bias[chosen]
        assert torch.allclose(mapped[token], alone, atol=1e-6)


def test_one_expert_is_an_ordinary_map() -> None:
    linear = _linear()
    assert linear.bias is not None
    x = torch.randn(6, 5)
    assert torch.allclose(linear(x, None), x @ linear.weight[0].T + linear.bias[0], atol=1e-6)


def test_norms_of_experts_have_the_epsilon_they_are_given() -> None:
    norm = ExpertNorm(2, 4, eps=0.5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 4) * 0.1
    scaled = x / (x.square().mean(dim=1, keepdim=True) + 0.5).sqrt()
    expert = torch.tensor([1, 0, 1])
    assert torch.allclose(norm(x, expert), scaled * norm.weight[expert], atol=1e-6)
    assert torch.allclose(norm(x, None), scaled * norm.weight[0], atol=1e-6)
