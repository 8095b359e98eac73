"""Image codecs: pictures to a grid of codes or of latents, and back.

A codec says what it costs: its reconstruction ceiling is measured when it is trained, stored in its
file and printed, as no model can draw better than its codec.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.errors import ConfigurationError


class Codec(nn.Module):
    """Pictures [n, 3, side, side] in -1..1 to a grid of side / patch and back."""

    kind: ClassVar[str]
    # Whether `encode` gives codes (int64) rather than latents (float32).
    discrete: ClassVar[bool]

    def __init__(self, *, side: int, patch: int) -> None:
        super().__init__()
        if side % patch:
            raise ConfigurationError(f"a side of {side} px is not a multiple of a patch of {patch}")
        self.side, self.patch = side, patch
        # Reconstruction measured on held-out pictures: psnr (dB), mse (0..1 squared).
        self.ceiling: dict[str, float] = {}
        # How often each code of all codebooks was met in training, one after the other.
        self.frequencies = torch.zeros(0)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.side // self.patch, self.side // self.patch

    @property
    def vocabularies(self) -> tuple[int, ...]:
        """Codes in each of the codebooks; one code of each is spent at every place."""
        return ()

    @property
    def channels(self) -> int:
        """Channels of a latent, 0 for codes."""
        return 0

    def fields(self) -> dict[str, Any]:
        """What the constructor takes."""
        raise NotImplementedError

    def code_features(self) -> list[Tensor]:
        """What the codes of each codebook stand for, [codes, features]: like codes are alike."""
        return []

    def encode(self, pictures: Tensor) -> Tensor:
        """[n, 3, side, side] -> [n, h, w, codebooks] int64 or [n, h, w, channels] float32."""
        raise NotImplementedError

    def decode(self, grid: Tensor) -> Tensor:
        """The inverse of `encode`, as far as it goes."""
        raise NotImplementedError

    def loss(self, pictures: Tensor) -> Tensor:
        """What training minimises; codecs that are fitted rather than trained have none."""
        raise NotImplementedError


def to_patches(pictures: Tensor, patch: int) -> Tensor:
    """[n, 3, s, s] -> [n, s/p, s/p, 3*p*p]."""
    return F.pixel_unshuffle(pictures, patch).permute(0, 2, 3, 1)


def from_patches(patches: Tensor, patch: int) -> Tensor:
    """The inverse of `to_patches`."""
    return F.pixel_shuffle(patches.permute(0, 3, 1, 2), patch)


class KMeansCodec(Codec):
    """Each patch is the nearest of a codebook of mean patches; further codebooks spell what the
    ones before left over (residual quantisation).

    Colour differences count `chroma` times as much as brightness, and the means are found among
    patches drawn by their contrast: most patches are ground, and would take most of the codes.
    """

    kind = "kmeans"
    discrete = True

    def __init__(
        self,
        *,
        side: int = 30,
        patch: int = 3,
        sizes: tuple[int, ...] = (1024,),
        chroma: float = 2.0,
    ) -> None:
        super().__init__(side=side, patch=patch)
        self.sizes = tuple(int(size) for size in sizes)
        self.chroma = chroma
        grey = torch.ones(3, 3) / 3
        mix = grey + chroma * (torch.eye(3) - grey)
        self.register_buffer("mix", mix, persistent=False)
        self.register_buffer("unmix", torch.linalg.inv(mix), persistent=False)
        self.register_buffer("means", torch.zeros(sum(self.sizes), 3 * patch * patch))

    @property
    def vocabularies(self) -> tuple[int, ...]:
        return self.sizes

    def fields(self) -> dict[str, Any]:
        return {
            "side": self.side, "patch": self.patch, "sizes": self.sizes, "chroma": self.chroma,
        }  # fmt: skip

    def code_features(self) -> list[Tensor]:
        """The mean patches."""
        return list(self.means.split(list(self.sizes)))

    def _rows(self, pictures: Tensor) -> Tensor:
        """Mixed patches, [n * h * w, 3 * patch * patch]."""
        mixed = torch.einsum("nchw,dc->ndhw", pictures, self.mix)
        return to_patches(mixed, self.patch).reshape(-1, 3 * self.patch**2)

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Find the means; raises `ConfigurationError` for fewer patches than codes."""
        import faiss

        rows = self._rows(pictures)
        if len(rows) < max(self.sizes):
            raise ConfigurationError(f"{len(rows)} patches for {self.sizes} codes; give more")
        contrast = (rows.reshape(len(rows), 3, -1).var(dim=2).sum(dim=1) + 0.003) ** 1.25
        generator = torch.Generator().manual_seed(seed)
        means = []
        for size in self.sizes:
            drawn = torch.multinomial(
                contrast[: 2**24], 200 * size, replacement=True, generator=generator
            )
            kmeans = faiss.Kmeans(
                rows.shape[1], size, niter=20, seed=seed + 1, min_points_per_centroid=1,
                max_points_per_centroid=200,
            )  # fmt: skip
            kmeans.train(rows[drawn].contiguous().numpy())
            means.append(torch.from_numpy(kmeans.centroids))
            rows = rows - means[-1][_nearest(rows, means[-1])]
        self.means.copy_(torch.cat(means))

    def encode(self, pictures: Tensor) -> Tensor:
        rows = self._rows(pictures)
        codes = []
        for means in self.means.split(list(self.sizes)):
            codes.append(_nearest(rows, means))
            rows = rows - means[codes[-1]]
        return torch.stack(codes, dim=1).reshape(len(pictures), *self.grid, len(codes))

    def decode(self, grid: Tensor) -> Tensor:
        books = self.means.split(list(self.sizes))
        rows = torch.stack([means[grid[..., i]] for i, means in enumerate(books)]).sum(dim=0)
        mixed = from_patches(rows, self.patch)
        return torch.einsum("nchw,dc->ndhw", mixed, self.unmix).clamp(-1, 1)


def _nearest(rows: Tensor, means: Tensor) -> Tensor:
    """Index of the nearest mean of each row."""
    half = (means**2).sum(dim=1) / 2
    return torch.cat([(half - part @ means.T).argmin(dim=1) for part in rows.split(16384)])


class RawPatches(Codec):
    """Patches of pixels as they are, scaled by their standard deviation: no loss at all."""

    kind = "raw"
    discrete = False

    def __init__(self, *, side: int = 30, patch: int = 3, scale: float = 0.5) -> None:
        super().__init__(side=side, patch=patch)
        self.scale = scale

    @property
    def channels(self) -> int:
        return 3 * self.patch**2

    def fields(self) -> dict[str, Any]:
        return {"side": self.side, "patch": self.patch, "scale": self.scale}

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Measure the scale."""
        self.scale = float(pictures.std())

    def encode(self, pictures: Tensor) -> Tensor:
        return to_patches(pictures, self.patch) / self.scale

    def decode(self, grid: Tensor) -> Tensor:
        return from_patches(grid * self.scale, self.patch).clamp(-1, 1)


class WhitenedPatches(Codec):
    """Principal components of patches at unit variance (PCA whitening): small linear latents."""

    kind = "pca"
    discrete = False

    def __init__(self, *, side: int = 30, patch: int = 3, components: int = 24) -> None:
        super().__init__(side=side, patch=patch)
        self.components = components
        size = 3 * patch * patch
        if components > size:
            raise ConfigurationError(f"{components} components of patches of {size} values")
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("axes", torch.zeros(size, components))
        self.register_buffer("spread", torch.ones(components))

    @property
    def channels(self) -> int:
        return self.components

    def fields(self) -> dict[str, Any]:
        return {"side": self.side, "patch": self.patch, "components": self.components}

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Find the axes. The weakest are not blown up beyond a fiftieth of the strongest."""
        rows = to_patches(pictures, self.patch).reshape(-1, 3 * self.patch**2).double()
        self.mean.copy_(rows.mean(dim=0))
        values, vectors = torch.linalg.eigh(torch.cov(rows.T))
        order = values.argsort(descending=True)[: self.components]
        self.axes.copy_(vectors[:, order])
        spread = values[order].clamp_min(0).sqrt()
        self.spread.copy_(spread.clamp_min(float(spread[0]) / 50))

    def encode(self, pictures: Tensor) -> Tensor:
        return (to_patches(pictures, self.patch) - self.mean) @ self.axes / self.spread

    def decode(self, grid: Tensor) -> Tensor:
        rows = (grid * self.spread) @ self.axes.T + self.mean
        return from_patches(rows, self.patch).clamp(-1, 1)


class _Block(nn.Module):
    """Residual 3x3 convolutions on the grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(F.silu(self.first(self.norm(x))))
        return out


class _AutoEncoder(Codec):
    """Patches -> width -> blocks -> `bottleneck` channels -> blocks -> patches."""

    def __init__(
        self, *, side: int, patch: int, width: int, blocks: int, entering: int, leaving: int
    ) -> None:
        super().__init__(side=side, patch=patch)
        self.width, self.blocks = width, blocks
        pixels = 3 * patch * patch
        self.down = nn.Sequential(
            nn.Conv2d(pixels, width, 1),
            *[_Block(width) for _ in range(blocks)],
            nn.Conv2d(width, leaving, 1),
        )
        self.up = nn.Sequential(
            nn.Conv2d(entering, width, 1),
            *[_Block(width) for _ in range(blocks + 1)],
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, pixels, 3, padding=1),
        )

    def _down(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.down(F.pixel_unshuffle(pictures, self.patch))
        return out.permute(0, 2, 3, 1)

    def _up(self, grid: Tensor) -> Tensor:
        return F.pixel_shuffle(self.up(grid.permute(0, 3, 1, 2)), self.patch)


class FsqCodec(_AutoEncoder):
    """Finite scalar quantisation (Mentzer et al. 2023): each latent channel is rounded to a few
    levels, so there is no codebook to collapse. Several tuples of levels are several codebooks,
    and each place is then spelt with one code of each (factorised codes)."""

    kind = "fsq"
    discrete = True

    def __init__(
        self,
        *,
        side: int = 30,
        patch: int = 3,
        width: int = 96,
        blocks: int = 2,
        levels: tuple[tuple[int, ...], ...] = ((8, 6, 5, 4),),
    ) -> None:
        self.levels = tuple(tuple(int(n) for n in group) for group in levels)
        flat = [n for group in self.levels for n in group]
        if not flat or min(flat) < 2:
            raise ConfigurationError(f"levels {levels}: give at least two to each channel")
        super().__init__(
            side=side, patch=patch, width=width, blocks=blocks, entering=len(flat),
            leaving=len(flat),
        )  # fmt: skip
        self.register_buffer("counts", torch.tensor(flat), persistent=False)

    @property
    def vocabularies(self) -> tuple[int, ...]:
        return tuple(int(torch.tensor(group).prod()) for group in self.levels)

    def fields(self) -> dict[str, Any]:
        return {
            "side": self.side, "patch": self.patch, "width": self.width, "blocks": self.blocks,
            "levels": self.levels,
        }  # fmt: skip

    def code_features(self) -> list[Tensor]:
        """The digits of each code."""
        features = []
        for group in self.levels:
            scales = [torch.linspace(-1, 1, count) for count in group]
            features.append(torch.cartesian_prod(*scales).reshape(-1, len(group)))
        return features

    def _digits(self, pictures: Tensor) -> Tensor:
        """Positions on each scale, 0..levels-1, not yet rounded: [n, h, w, channels]."""
        top = (self.counts - 1).float()
        return (torch.tanh(self._down(pictures)) + 1) / 2 * top

    def _from_digits(self, digits: Tensor) -> Tensor:
        return self._up(digits / (self.counts - 1) * 2 - 1)

    def encode(self, pictures: Tensor) -> Tensor:
        digits = self._digits(pictures).round().long()
        codes, at = [], 0
        for group in self.levels:
            code = torch.zeros_like(digits[..., 0])
            for count in group:
                code = code * count + digits[..., at]
                at += 1
            codes.append(code)
        return torch.stack(codes, dim=-1)

    def decode(self, grid: Tensor) -> Tensor:
        digits: list[Tensor] = []
        for index, group in enumerate(self.levels):
            code, places = grid[..., index], []
            for count in reversed(group):
                places.append(code % count)
                code = code // count
            digits += reversed(places)
        return self._from_digits(torch.stack(digits, dim=-1).float()).clamp(-1, 1)

    def loss(self, pictures: Tensor) -> Tensor:
        """Squared error through straight-through rounding."""
        digits = self._digits(pictures)
        rounded = digits + (digits.round() - digits).detach()
        return F.mse_loss(self._from_digits(rounded), pictures)


class VaeCodec(_AutoEncoder):
    """A small variational autoencoder (Kingma & Welling 2013): smooth latents for flow. Latents
    are scaled to unit deviation by what was measured at the end of training."""

    kind = "vae"
    discrete = False

    def __init__(
        self,
        *,
        side: int = 30,
        patch: int = 3,
        width: int = 96,
        blocks: int = 2,
        latent: int = 16,
        kl: float = 1e-4,
    ) -> None:
        self.latent, self.kl = latent, kl
        super().__init__(
            side=side, patch=patch, width=width, blocks=blocks, entering=latent,
            leaving=2 * latent,
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(latent))
        self.register_buffer("spread", torch.ones(latent))

    @property
    def channels(self) -> int:
        return self.latent

    def fields(self) -> dict[str, Any]:
        return {
            "side": self.side, "patch": self.patch, "width": self.width, "blocks": self.blocks,
            "latent": self.latent, "kl": self.kl,
        }  # fmt: skip

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Measure the latents, after training."""
        with torch.no_grad():
            parts = [self._down(part)[..., : self.latent] for part in pictures.split(256)]
        rows = torch.cat(parts).reshape(-1, self.latent)
        self.mean.copy_(rows.mean(dim=0))
        self.spread.copy_(rows.std(dim=0).clamp_min(1e-3))

    def encode(self, pictures: Tensor) -> Tensor:
        """The mean of the posterior."""
        return (self._down(pictures)[..., : self.latent] - self.mean) / self.spread

    def decode(self, grid: Tensor) -> Tensor:
        return self._up(grid * self.spread + self.mean).clamp(-1, 1)

    def loss(self, pictures: Tensor) -> Tensor:
        """Squared error + kl * divergence from a normal of unit variance."""
        mean, log_var = self._down(pictures).chunk(2, dim=-1)
        log_var = log_var.clamp(-12, 4)
        sampled = mean + torch.randn_like(mean) * (log_var / 2).exp()
        divergence = (mean**2 + log_var.exp() - 1 - log_var).mean() / 2
        return F.mse_loss(self._up(sampled), pictures) + self.kl * divergence


def balancing_weights(codec: Codec, power: float) -> Tensor:
    """A weight for each code, frequency ** -power, of mean one over what is met, 0.1 to 10.

    Most codes of a picture are of its ground and mostly noise; weighted so, what is rare is learnt
    sooner. A model that was trained so has learnt p * weight, which samplers undo by subtracting
    log(weight) (logit adjustment, Menon et al. 2020).
    """
    if not len(codec.frequencies):
        return torch.ones(sum(codec.vocabularies))
    parts = []
    for shares in codec.frequencies.split(list(codec.vocabularies)):
        weight = shares**-power
        weight = (weight / (weight * shares).sum()).clamp(0.1, 10)
        parts.append(weight / (weight * shares).sum())
    return torch.cat(parts)


CODECS: dict[str, type[Codec]] = {
    cls.kind: cls for cls in (KMeansCodec, FsqCodec, VaeCodec, RawPatches, WhitenedPatches)
}


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 [n, s, s, 3] -> float32 [n, 3, s, s] in -1..1."""
    return (pictures.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous()


def to_bytes(pictures: Tensor) -> Tensor:
    """The inverse of `to_unit`, rounded."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


@dataclass(frozen=True, kw_only=True)
class CodecTraining:
    """How a codec is trained."""

    steps: int = 500
    batch_size: int = 128
    learning_rate: float = 3e-3
    seed: int = 0
    # bfloat16 where the machine is fast in it.
    bf16: bool = field(default=True)


def train_codec(codec: Codec, pictures: Tensor, training: CodecTraining | None = None) -> Codec:
    """Train or fit a codec on uint8 pictures [n, side, side, 3] and measure its ceiling.

    A twentieth of the pictures (at least one) is held out for the ceiling. Raises
    `ConfigurationError` for pictures of another size, or too few.
    """
    training = training or CodecTraining()
    if pictures.shape[1:] != (codec.side, codec.side, 3):
        raise ConfigurationError(
            f"pictures of shape {tuple(pictures.shape)} for a codec of "
            f"[n, {codec.side}, {codec.side}, 3]"
        )
    if len(pictures) < 2:
        raise ConfigurationError(f"{len(pictures)} pictures; a codec needs at least two")
    held_out = max(1, len(pictures) // 20)
    unit = to_unit(pictures)
    train, test = unit[held_out:], unit[:held_out]
    torch.manual_seed(training.seed)
    if list(codec.parameters()):
        _descend(codec, train, training)
    codec.eval()
    fit = getattr(codec, "fit", None)
    if fit is not None:
        fit(train, training.seed)
    codec.ceiling = measure(codec, test)
    if codec.discrete:
        codec.frequencies = _count_codes(codec, train[:4096])
    return codec


@torch.no_grad()
def _count_codes(codec: Codec, pictures: Tensor) -> Tensor:
    """Shares of each codebook, each summing to one; what was never met counts half a time."""
    grids = torch.cat([codec.encode(part) for part in pictures.split(256)])
    shares = []
    for book, size in enumerate(codec.vocabularies):
        counts = torch.bincount(grids[..., book].reshape(-1), minlength=size).float() + 0.5
        shares.append(counts / counts.sum())
    return torch.cat(shares)


def _descend(codec: Codec, pictures: Tensor, training: CodecTraining) -> None:
    for module in codec.modules():
        if isinstance(module, nn.Conv2d) and not bool((module.weight == 0).all()):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    optimizer = torch.optim.AdamW(
        codec.parameters(), lr=training.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(training.seed)
    codec.train()
    codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for _ in range(training.steps):
        rows = torch.randint(len(pictures), (training.batch_size,), generator=generator)
        batch = pictures[rows].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bf16):
            loss = codec.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    codec.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


@torch.no_grad()
def measure(codec: Codec, unit: Tensor) -> dict[str, float]:
    """{"psnr": dB, "mse": of values in 0..1} of pictures in -1..1 against themselves decoded."""
    errors = [F.mse_loss(codec.decode(codec.encode(part)), part) for part in unit.split(256)]
    mse = float(torch.stack(errors).mean()) / 4
    return {"psnr": round(float(-10 * torch.log10(torch.tensor(max(mse, 1e-10)))), 2), "mse": mse}


def save_codec(codec: Codec, path: str) -> None:
    """One safetensors file: weights, and what the constructor takes as metadata."""
    from safetensors.torch import save_file

    facts = {"kind": codec.kind, "fields": codec.fields(), "ceiling": codec.ceiling}
    partial = path + ".partial"
    weights = {name: value.contiguous() for name, value in codec.state_dict().items()}
    # safetensors refuses a file of no tensors at all.
    weights["side"] = torch.tensor([codec.side])
    weights["frequencies"] = codec.frequencies
    save_file(weights, partial, metadata={"codec": json.dumps(facts)})
    os.replace(partial, path)


def load_codec(path: str) -> Codec:
    """Read what `save_codec` wrote. Raises `ConfigurationError` naming the remedy."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ConfigurationError(f"no codec at {path}; train one: gristmill train-codec") from None
    except SafetensorError as error:
        raise ConfigurationError(f"{path} is not a codec file: {error}") from error
    if "codec" not in metadata:
        raise ConfigurationError(f"{path} is not a codec of ours: it has no 'codec' metadata")
    facts = json.loads(metadata["codec"])
    if facts["kind"] not in CODECS:
        raise ConfigurationError(f"{path}: unknown codec {facts['kind']!r}; known: {list(CODECS)}")
    codec = CODECS[facts["kind"]](**facts["fields"])
    weights.pop("side", None)
    codec.frequencies = weights.pop("frequencies", torch.zeros(0))
    try:
        codec.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigurationError(f"{path}: weights do not fit the codec: {error}") from error
    codec.ceiling = facts["ceiling"]
    return codec.eval()


def codec_digest(path: str) -> str:
    """16 hex digits of the file: tokens and models of different codecs must not meet."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
