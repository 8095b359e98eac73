"""A vision transformer over packed patches: pictures of any grid, one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from gristmill.model.encoders.config import VisionConfig


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu, "gelu_tanh": _tanh_gelu, "quick_gelu": _quick_gelu,
}  # fmt: skip


class _Layer(nn.Module):
    """Attention within each picture, and a feed-forward part, each normed first and added."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.activation = _ACTIVATIONS[config.activation]
        self.norm1 = nn.LayerNorm(width, eps=config.norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=config.norm_eps)
        self.up = nn.Linear(width, config.feed_forward)
        self.down = nn.Linear(config.feed_forward, width)
        self.scale1 = nn.Parameter(torch.ones(width)) if config.layer_scale else None
        self.scale2 = nn.Parameter(torch.ones(width)) if config.layer_scale else None

    def forward(self, x: Tensor, alike: Sequence[Tensor]) -> Tensor:
        """x: [N, width]; `alike`: [pictures, length] positions, of pictures of one length each."""
        qkv = self.qkv(self.norm1(x))
        seen = torch.empty_like(x, dtype=qkv.dtype)
        for places in alike:
            q, k, v = qkv[places].unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            one = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            seen = seen.index_put((places,), one)
        inner = self.out(seen)
        x = x + (inner if self.scale1 is None else self.scale1 * inner)
        inner = self.down(self.activation(self.up(self.norm2(x))))
        out: Tensor = x + (inner if self.scale2 is None else self.scale2 * inner)
        return out


class VisionTransformer(nn.Module):
    """Patches of pictures in, features of patches out (Dosovitskiy et al. 2021), pictures packed
    one behind the other (NaViT, Dehghani et al. 2023)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_in = nn.Linear(3 * config.patch**2, width, bias=config.patch_bias)
        self.positions = nn.Parameter(torch.zeros(*config.grid, width))
        if config.class_token:
            self.class_token = nn.Parameter(torch.zeros(width))
        self.pre_norm = (
            nn.LayerNorm(width, eps=config.norm_eps) if config.pre_norm else nn.Identity()
        )
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps) if config.final_norm else nn.Identity()

    def forward(
        self, patches: UInt8[Tensor, "patches values"], grids: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "patches width"]:
        """`patches`: rows of pixels of each patch, [row, column, channel] flattened, pictures of
        those grids one behind the other, each in raster order."""
        config = self.config
        blank = not grids
        if blank:
            # On every rank all that learns must be gathered and have a gradient, be it zero.
            patches, grids = patches.new_zeros(1, patches.shape[1]), [(1, 1)]
        x = self.patch_in(pixels(patches, config).to(self.patch_in.weight.dtype))
        tables = {grid: self._positions(grid) for grid in set(grids)}
        x = x + torch.cat([tables[grid] for grid in grids]).to(x.dtype)
        lengths = [rows * columns for rows, columns in grids]
        inside = torch.arange(len(x), device=x.device)
        if config.class_token:
            # A class token of its own before each picture.
            first = torch.tensor([0, *lengths[:-1]]).cumsum(0).to(x.device)
            owner = torch.arange(len(grids)).repeat_interleave(torch.tensor(lengths)).to(x.device)
            inside = inside + owner + 1
            whole = x.new_zeros(len(x) + len(grids), x.shape[1])
            whole = whole.index_put((inside,), x)
            starts = first + torch.arange(len(grids), device=x.device)
            x = whole.index_put((starts,), self.class_token.to(x.dtype).expand(len(grids), -1))
        x = self.pre_norm(x)
        alike = _alike([length + config.class_token for length in lengths], x.device)
        for layer in self.layers:
            x = layer(x, alike)
        x = self.norm(x)[inside[:0] if blank else inside]
        return F.layer_norm(x.float(), x.shape[-1:]) if config.unit else x.float()

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """The table of positions brought to a grid, [rows * columns, width]."""
        if grid == self.config.grid:
            return self.positions.flatten(0, 1)
        mode, _, antialias = self.config.resize.partition("-")
        table = self.positions.permute(2, 0, 1)[None].float()
        there = F.interpolate(
            table, size=grid, mode=mode, align_corners=False, antialias=bool(antialias)
        )
        return there[0].permute(1, 2, 0).flatten(0, 1)


def pixels(patches: Tensor, config: VisionConfig) -> Tensor:
    """uint8 [N, patch * patch * 3] as the tower wants values, float32."""
    mean = torch.tensor(config.mean, device=patches.device)
    std = torch.tensor(config.std, device=patches.device)
    values = patches.unflatten(1, (-1, 3)).float() / 255
    scaled: Tensor = (values - mean) / std
    return scaled.flatten(1)


def _alike(lengths: Sequence[int], device: torch.device) -> list[Tensor]:
    """Positions of the pictures of each length, [pictures, length]."""
    starts: dict[int, list[int]] = {}
    at = 0
    for length in lengths:
        starts.setdefault(length, []).append(at)
        at += length
    return [
        torch.tensor(begins, device=device)[:, None] + torch.arange(length, device=device)
        for length, begins in starts.items()
    ]
