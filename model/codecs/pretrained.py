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
from gristmill.model.codecs.base import (
    Codec,
    Codes,
    Grid,
    Latents,
    Pixels,
    from_patches,
    to_patches,
)

# Pixels that go through a network at once: memory does not grow with a batch.
_PIXELS = 2**20


class FrozenCodec(Codec):
    """A network of others, `network`, that is not trained, a few pictures at a time."""

    network: Any

    def _hold(self, network: nn.Module) -> None:
        self.network = network.requires_grad_(False).eval()

    @torch.no_grad()
    def _encode(self, pictures: Pixels) -> Grid:
        at_once = max(1, _PIXELS // (pictures.shape[2] * pictures.shape[3]))
        return torch.cat([self._encode_some(part) for part in pictures.split(at_once)])

    @torch.no_grad()
    def _decode(self, grid: Grid) -> Pixels:
        at_once = max(1, _PIXELS // (grid.shape[1] * grid.shape[2] * self.patch**2))
        return torch.cat([self._decode_some(part) for part in grid.split(at_once)])

    def _encode_some(self, pictures: Pixels) -> Grid:
        raise NotImplementedError

    def _decode_some(self, grid: Grid) -> Pixels:
        raise NotImplementedError


class _OfDiffusers(FrozenCodec):
    """A network of diffusers; a place of its grid is `latent_patch` of its latents each way."""

    network_name: str

    def __init__(
        self, *, side: int, latent_patch: int, source: str, config: Mapping[str, object] | None
    ) -> None:
        network = _open(self.network_name, source, config)
        # Each block but the last halves the sides.
        self.down = 2 ** (len(network.config["block_out_channels"]) - 1)
        super().__init__(side=side, patch=self.down * latent_patch)
        self.config = {key: value for key, value in network.config.items() if key[0] != "_"}
        self._hold(network)

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


class PretrainedVae(_OfDiffusers):
    """AutoencoderKL, as latent diffusion uses it (Rombach et al. 2022), with the 4 channels of
    Stable Diffusion or the 16 of SD3 and FLUX: smooth latents, packed `latent_patch` x
    `latent_patch` to a place. They are scaled to unit deviation by what is measured on the pictures
    at hand, which takes the place of the shift and scale in the configuration.

    tile: pixels of the tiles that a larger picture is cut into, which bounds memory; they overlap
    by a quarter and are blended, so that latents are nearly those of the whole. 0: never cut.
    """

    kind = "pretrained-vae"
    discrete = False
    network_name = "AutoencoderKL"
    mean: Tensor
    spread: Tensor

    def __init__(
        self,
        *,
        side: int = 256,
        latent_patch: int = 2,
        tile: int = 0,
        source: str = "",
        config: Mapping[str, object] | None = None,
    ) -> None:
        if latent_patch not in (1, 2):
            raise ConfigurationError(f"latent_patch {latent_patch}: write 1 or 2")
        super().__init__(side=side, latent_patch=latent_patch, source=source, config=config)
        self.latent_patch, self.tile = latent_patch, tile
        if tile:
            self._cut_into(tile)
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("spread", torch.ones(self.channels))

    def _cut_into(self, tile: int) -> None:
        # The quarter that overlaps is whole latents.
        if tile < 0 or tile % (4 * self.down):
            raise ConfigurationError(
                f"tiles of {tile} px: write a multiple of {4 * self.down} px, or 0 for none"
            )
        self.network.enable_tiling()
        self.network.tile_sample_min_size = tile
        self.network.tile_latent_min_size = tile // self.down

    @property
    def channels(self) -> int:
        return int(self.config["latent_channels"]) * self.latent_patch**2

    def fields(self) -> Mapping[str, object]:
        return {**super().fields(), "latent_patch": self.latent_patch, "tile": self.tile}

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Measure the latents."""
        self.mean.zero_()
        self.spread.fill_(1.0)
        rows = self.encode(pictures).reshape(-1, self.channels)
        self.mean.copy_(rows.mean(dim=0))
        self.spread.copy_(rows.std(dim=0).clamp_min(1e-3))

    def _encode_some(self, pictures: Pixels) -> Latents:
        """The mean of the posterior."""
        latents: Tensor = self.network.encode(pictures).latent_dist.mean
        return (to_patches(latents, self.latent_patch) - self.mean) / self.spread

    def _decode_some(self, grid: Latents) -> Pixels:
        latents = from_patches(grid * self.spread + self.mean, self.latent_patch)
        decoded: Tensor = self.network.decode(latents).sample
        return decoded


class PretrainedVq(_OfDiffusers):
    """VQModel, the quantised autoencoder of VQGAN (Esser et al. 2021): one code to a place."""

    kind = "pretrained-vq"
    discrete = True
    network_name = "VQModel"

    def __init__(
        self, *, side: int = 256, source: str = "", config: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(side=side, latent_patch=1, source=source, config=config)

    @property
    def vocabularies(self) -> tuple[int, ...]:
        return (int(self.config["num_vq_embeddings"]),)

    def code_features(self) -> list[Tensor]:
        """The vectors of the codebook."""
        book: nn.Embedding = self.network.quantize.embedding
        return [book.weight.detach()]

    def _encode_some(self, pictures: Pixels) -> Codes:
        latents = self.network.encode(pictures).latents
        codes: Tensor = self.network.quantize(latents)[2][2]
        return codes.reshape(len(pictures), *latents.shape[2:], 1)

    def _decode_some(self, grid: Codes) -> Pixels:
        # Not `decode`, which takes codes for some configurations and vectors for others.
        vectors = self.network.quantize.embedding(grid[..., 0]).permute(0, 3, 1, 2)
        spatial = self.config["norm_type"] == "spatial"
        decoded: Tensor = self.network.decoder(
            self.network.post_quant_conv(vectors), vectors if spatial else None
        )
        return decoded
