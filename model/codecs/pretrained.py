"""Autoencoders that others trained, in the format of the diffusers library.

They are read once from a folder or the hub (`--set source=...`), measured on the pictures at hand,
and written into a codec file of ours with their weights, so that a checkpoint needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import Codec, Codes, Latents, Pixels


class _Pretrained(Codec):
    """A frozen network of diffusers; its latents have a place for each `patch` pixels."""

    network_name: str

    def __init__(self, *, side: int, source: str, config: Mapping[str, object] | None) -> None:
        network = _open(self.network_name, source, config)
        # Each block but the last halves the sides.
        super().__init__(side=side, patch=2 ** (len(network.config["block_out_channels"]) - 1))
        self.config = {key: value for key, value in network.config.items() if key[0] != "_"}
        self.network = network.requires_grad_(False).eval()

    def fields(self) -> Mapping[str, object]:
        return {"side": self.side, "config": self.config}


def _open(name: str, source: str, config: Mapping[str, object] | None) -> Any:
    """The network, with weights from `source`, or without from a configuration."""
    try:
        import diffusers
    except ImportError:
        raise ConfigurationError(
            "pretrained codecs need diffusers: pip install 'gristmill[pretrained]'"
        ) from None
    kind = getattr(diffusers, name)
    if config is not None:
        return kind.from_config(config)
    if not source:
        raise ConfigurationError(
            "a pretrained codec needs --set source=FOLDER, or the hub's name of the model"
        )
    try:
        return kind.from_pretrained(source, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigurationError(
            f"{source} cannot be read as {name} of diffusers: {error}; give a folder with "
            "config.json and *.safetensors"
        ) from error


class PretrainedVae(_Pretrained):
    """AutoencoderKL, as latent diffusion uses it (Rombach et al. 2022): smooth latents. They are
    scaled to unit deviation by what is measured on the pictures at hand."""

    kind = "pretrained-vae"
    discrete = False
    network_name = "AutoencoderKL"
    mean: Tensor
    spread: Tensor

    def __init__(
        self, *, side: int = 256, source: str = "", config: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(side=side, source=source, config=config)
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("spread", torch.ones(self.channels))

    @property
    def channels(self) -> int:
        return int(self.config["latent_channels"])

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Measure the latents."""
        rows = torch.cat([self._latents(part) for part in pictures.split(16)])
        rows = rows.reshape(-1, self.channels)
        self.mean.copy_(rows.mean(dim=0))
        self.spread.copy_(rows.std(dim=0).clamp_min(1e-3))

    @torch.no_grad()
    def _latents(self, pictures: Tensor) -> Tensor:
        latents: Tensor = self.network.encode(pictures).latent_dist.mean
        return latents.permute(0, 2, 3, 1)

    def _encode(self, pictures: Pixels) -> Latents:
        """The mean of the posterior."""
        return (self._latents(pictures) - self.mean) / self.spread

    @torch.no_grad()
    def _decode(self, grid: Latents) -> Pixels:
        latents = (grid * self.spread + self.mean).permute(0, 3, 1, 2)
        decoded: Tensor = self.network.decode(latents).sample
        return decoded


class PretrainedVq(_Pretrained):
    """VQModel, the quantised autoencoder of VQGAN (Esser et al. 2021): one code to a place."""

    kind = "pretrained-vq"
    discrete = True
    network_name = "VQModel"

    def __init__(
        self, *, side: int = 256, source: str = "", config: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(side=side, source=source, config=config)

    @property
    def vocabularies(self) -> tuple[int, ...]:
        return (int(self.config["num_vq_embeddings"]),)

    def code_features(self) -> list[Tensor]:
        """The vectors of the codebook."""
        book: nn.Embedding = self.network.quantize.embedding
        return [book.weight.detach()]

    @torch.no_grad()
    def _encode(self, pictures: Pixels) -> Codes:
        latents = self.network.encode(pictures).latents
        codes: Tensor = self.network.quantize(latents)[2][2]
        return codes.reshape(len(pictures), *latents.shape[2:], 1)

    @torch.no_grad()
    def _decode(self, grid: Codes) -> Pixels:
        vectors = self.network.quantize.embedding(grid[..., 0]).permute(0, 3, 1, 2)
        decoded: Tensor = self.network.decode(vectors, force_not_quantize=True).sample
        return decoded
