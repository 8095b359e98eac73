"""Where a position stands: rotary angles on three axes, and features of a place in its picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gristmill.errors import ConfigurationError, require_known

SCALINGS = ("none", "linear", "llama3", "yarn")
PLACE_FEATURES = 16


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How the frequencies of a model that learnt short texts were stretched for long ones."""

    # linear (kaiokendev 2023), llama3 (Llama 3.1), yarn (Peng et al. 2023).
    kind: str = "none"
    factor: float = 1.0
    # Positions before the stretching; of llama3 and yarn.
    original_positions: int = 0
    # Of llama3: turns within the original positions below which a pair is stretched wholly, and
    # above which it is left alone.
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    # Of yarn: the same, the other way round, and whether their pairs are rounded outward.
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    # Of yarn: cosines and sines are multiplied by it.
    attention_factor: float = 1.0

    def check(self) -> None:
        """Raise `ConfigurationError` for what cannot be computed."""
        require_known("rope scaling", self.kind, SCALINGS)
        if self.kind != "none" and self.factor <= 0:
            raise ConfigurationError(f"rope scaling by {self.factor}; give a factor above 0")
        if self.kind in ("llama3", "yarn") and self.original_positions < 1:
            raise ConfigurationError(f"rope scaling {self.kind} needs the original positions")
        if self.kind == "llama3" and self.high_frequency <= self.low_frequency:
            raise ConfigurationError("rope scaling llama3: high_frequency must exceed the low one")

    def apply(self, frequencies: Float[Tensor, " pairs"], base: float) -> Float[Tensor, " pairs"]:
        """The frequencies of the pairs of a head, stretched."""
        if self.kind == "linear":
            return frequencies / self.factor
        if self.kind == "llama3":
            return self._llama3(frequencies)
        if self.kind == "yarn":
            return self._yarn(frequencies, base)
        return frequencies

    def _llama3(self, frequencies: Tensor) -> Tensor:
        turns = self.original_positions * frequencies / math.tau
        kept = (turns - self.low_frequency) / (self.high_frequency - self.low_frequency)
        kept = kept.clamp(0, 1)
        return (1 - kept) * frequencies / self.factor + kept * frequencies

    def _yarn(self, frequencies: Tensor, base: float) -> Tensor:
        pairs = len(frequencies)

        def pair_of(turns: float) -> float:
            """The pair that makes so many turns within the original positions."""
            return pairs * math.log(self.original_positions / (turns * math.tau)) / math.log(base)

        low, high = pair_of(self.beta_fast), pair_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * pairs - 1)
        if low == high:
            high += 0.001
        stretched = ((torch.arange(pairs) - low) / (high - low)).clamp(0, 1)
        return stretched * frequencies / self.factor + (1 - stretched) * frequencies


NO_SCALING = RopeScaling()


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021) on time, row and column (M-RoPE of Qwen2-VL, Wang et al.
    2024): one base for all, and each pair of a head belongs to an axis. Where the three agree, as
    they do in text, the angles are those of one axis."""

    frequencies: Tensor
    axis: Tensor

    def __init__(
        self,
        head_dim: int,
        base: float,
        sections: tuple[int, ...] = (),
        interleaved: bool = True,
        scaling: RopeScaling = NO_SCALING,
    ) -> None:
        """`sections`: pairs of each axis, thirds if there are none; in blocks of pairs (Qwen2-VL),
        or `interleaved` pair by pair, so that each axis has quick and slow ones (Qwen3-VL)."""
        super().__init__()
        self.pairs, self.base, self.interleaved = head_dim // 2, base, interleaved
        self.sections = sections or thirds(self.pairs)
        self.scaling = scaling
        # On the CPU, also where weights are made on the meta device: nobody would fill them.
        with torch.device("cpu"):
            exponents = torch.arange(0, 2 * self.pairs, 2, dtype=torch.float32) / (2 * self.pairs)
            frequencies = scaling.apply(1.0 / base**exponents, base)
            axis = torch.tensor(axis_of_pairs(self.sections, interleaved))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("axis", axis, persistent=False)

    def forward(
        self, pos: Int[Tensor, "rows length 3"]
    ) -> tuple[Float[Tensor, "positions 1 pairs"], Float[Tensor, "positions 1 pairs"]]:
        """Cosines and sines."""
        angles = pos.float()[:, :, self.axis].flatten(0, 1)[:, None] * self.frequencies
        factor = self.scaling.attention_factor
        return angles.cos() * factor, angles.sin() * factor


def thirds(pairs: int) -> tuple[int, int, int]:
    """Pairs of time, row and column, as even as can be; time has what is left."""
    side = pairs // 3
    return pairs - 2 * side, side, side


def axis_of_pairs(sections: tuple[int, ...], interleaved: bool) -> list[int]:
    """The axis of each pair: 0 time, 1 row, 2 column."""
    if not interleaved:
        return [axis for axis, count in enumerate(sections) for _ in range(count)]
    # What rows and columns do not fill is time's.
    return [
        pair % 3 if pair < 3 * sections[pair % 3] else 0 for pair in range(sum(sections))
    ]  # fmt: skip


def rotate(
    x: Float[Tensor, "positions heads dim"],
    cos: Float[Tensor, "positions 1 pairs"],
    sin: Float[Tensor, "positions 1 pairs"],
) -> Float[Tensor, "positions heads dim"]:
    """Heads turned by the angles of each pair: the first half of a head with its second."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def place_features(
    pos: Int[Tensor, "rows length 3"],
) -> Float[Tensor, "rows length features"]:
    """Cosines and sines of row and column in a picture, of periods from 4 to 256; its positions
    are (time, time + row, time + column)."""
    frequencies = math.tau / 4.0 ** torch.arange(1, 5, device=pos.device, dtype=torch.float32)
    places = (pos[:, :, 1:] - pos[:, :, :1]).float()
    angles = (places[:, :, :, None] * frequencies).flatten(2)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
