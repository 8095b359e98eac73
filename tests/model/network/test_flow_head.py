"""The diffusion transformer on queries: its gradient is that of finite differences, pictures of
any size go beside one another, and where a latent lies in its picture is known."""

from __future__ import annotations

import torch
from torch import Tensor

from gristmill.model.network.flow_head import BoundLatents, FlowHead

# Rows, columns and latents to a query of each span.
SPANS = ((2, 3, 4), (1, 2, 1), (3, 3, 4))


def _head() -> FlowHead:
    torch.manual_seed(0)
    head = FlowHead(in_features=6, channels=3, width=8, layers=2, head_dim=4)
    torch.nn.init.normal_(head.latent_out.weight)
    for layer in head.layers:
        torch.nn.init.normal_(layer.modulate.weight, std=0.1)  # type: ignore[union-attr]
    return head


def _places(rows: int, columns: int) -> Tensor:
    return torch.cartesian_prod(torch.arange(rows), torch.arange(columns))


def _spans(shapes: tuple[tuple[int, int, int], ...]) -> tuple[Tensor, Tensor, int]:
    """Where each latent is bound, where it lies, and how many positions there are."""
    at, bound, places = 0, [], []
    for rows, columns, share in shapes:
        count = -(-rows * columns // share)
        bound.append(at + torch.arange(rows * columns) * count // (rows * columns))
        places.append(_places(rows, columns))
        # Between two spans lies another position.
        at += count + 1
    return torch.cat(bound), torch.cat(places), at


def test_the_gradient_is_that_of_finite_differences() -> None:
    head = _head().double()
    bound, places, positions = _spans(SPANS)
    time = torch.tensor([0.3, 0.9, 0.5])
    times = torch.cat([time[i].expand(r * c) for i, (r, c, _) in enumerate(SPANS)])
    hidden = torch.randn(positions, 6, dtype=torch.float64, requires_grad=True)
    noisy = torch.randn(len(bound), 3, dtype=torch.float64, requires_grad=True)
    one = torch.zeros(len(bound), dtype=torch.int32)
    wanted = torch.randn(len(bound), 3, dtype=torch.float64)

    def loss() -> Tensor:
        return (
            (head.packed(hidden, BoundLatents.of(bound, one), noisy, times, places) - wanted)
            .square()
            .sum()
        )

    loss().backward()
    for moved in (hidden, noisy, *head.parameters()):
        assert moved.grad is not None
        step = 1e-5 * torch.randn_like(moved)
        with torch.no_grad():
            ahead = (moved.add_(step), loss())[1]
            behind = (moved.sub_(2 * step), loss())[1]
            moved.add_(step)
        expected = (moved.grad * step).sum()
        assert torch.allclose((ahead - behind) / 2, expected, rtol=1e-4, atol=1e-9)


@torch.no_grad()
def test_spans_of_other_sizes_beside_it_do_not_matter() -> None:
    head = _head()
    bound, places, positions = _spans(SPANS)
    hidden, noisy = torch.randn(positions, 6), torch.randn(len(bound), 3)
    times, one = torch.full((len(bound),), 0.4), torch.zeros(len(bound), dtype=torch.int32)
    together = head.packed(hidden, BoundLatents.of(bound, one), noisy, times, places)
    start = 0
    for rows, columns, _ in SPANS:
        part = slice(start, start + rows * columns)
        own = BoundLatents.of(bound[part], one[part])
        alone = head.packed(hidden, own, noisy[part], times[part], places[part])
        assert torch.allclose(alone, together[part], atol=1e-5)
        start = part.stop


@torch.no_grad()
def test_a_latent_knows_its_row_and_its_column_in_a_picture_of_any_size() -> None:
    head = _head()
    rows, columns = 65, 64
    places = _places(rows, columns)
    count = len(places)
    assert count > 4096
    bound = torch.arange(count) * (count // 4) // count
    hidden = torch.zeros(count // 4, 6)
    one = torch.zeros(count, dtype=torch.int32)
    own, times = BoundLatents.of(bound, one), torch.full((count,), 0.5)
    out = head.packed(hidden, own, torch.zeros(count, 3), times, places)
    # Latents and queries are alike, so that only places tell velocities apart.
    assert len(torch.unique((out * 1e4).round(), dim=0)) > 0.99 * count
    # The same places in a picture of another width are the same places.
    turned = places.flip(1)
    other = head.packed(hidden, own, torch.zeros(count, 3), times, turned)
    assert not torch.allclose(out, other, atol=1e-3)
