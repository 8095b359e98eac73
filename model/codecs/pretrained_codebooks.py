"""Quantised autoencoders of released models that draw by codes, in the form of transformers: Janus
(and LlamaGen, whose it is), Emu3, Chameleon.

`--set source=`: a folder or a hub's name of the whole model or of the autoencoder alone, or a file
of its weights, as LlamaGen has it. They are frozen, and written into a codec file of ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import Codes, Pixels, nearest
from gristmill.model.codecs.pretrained import FrozenCodec
from gristmill.model.codecs.published_files import read_config, read_part

# Every one of them has it, and no other part of its model.
_MARK = "quantize.embedding.weight"
# Of a configuration, what says nothing of the network.
_NOT_KEPT = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")


class _OfTransformers(FrozenCodec):
    """One code to a place, of one codebook."""

    discrete = True
    # Name of the network's class in transformers; its configuration's is the same and "Config".
    network_name: ClassVar[str]
    # `model_type` of the whole model and of the autoencoder alone.
    model_types: ClassVar[tuple[str, str]]

    def __init__(self, *, side: int, source: str, config: Mapping[str, Any] | None) -> None:
        if config is None and not source:
            raise ConfigurationError(
                "a pretrained codec needs --set source=FOLDER, or the hub's name of the model"
            )
        self.config = dict(config) if config is not None else self._read_config(source)
        network = _make(self.network_name, self.config)
        # Each level but the last halves the sides.
        super().__init__(side=side, patch=2 ** (len(network.config.channel_multiplier) - 1))
        self.codes = len(network.quantize.embedding.weight)
        self._hold(self._prepared(network))
        if source:
            self._fill(source, self._renamed(read_part(source, _MARK)))

    def _read_config(self, source: str) -> dict[str, Any]:
        found = read_config(source)
        whole, alone = self.model_types
        if found and found.get("model_type") not in self.model_types:
            raise ConfigurationError(
                f"{source} is a model of type {found.get('model_type')!r}; {self.kind} reads "
                f"{whole!r} and {alone!r}"
            )
        vq: dict[str, Any] = found.get("vq_config", found)
        return {name: value for name, value in vq.items() if name not in _NOT_KEPT}

    def _prepared(self, network: nn.Module) -> nn.Module:
        return network

    def _renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights under the names of transformers."""
        return weights

    def _fill(self, source: str, weights: Mapping[str, Tensor]) -> None:
        there = self.network.state_dict()
        taken = {name: value for name, value in weights.items() if name in there}
        try:
            self.network.load_state_dict(taken)
        except RuntimeError as error:
            raise ConfigurationError(
                f"the weights of {source} are not those of its configuration: {error}"
            ) from error

    @property
    def vocabularies(self) -> tuple[int, ...]:
        return (self.codes,)

    def fields(self) -> Mapping[str, object]:
        return {"side": self.side, "config": self.config}

    def code_features(self) -> list[Tensor]:
        """The vectors of the codebook."""
        return [self._book()]

    def _book(self) -> Tensor:
        book: Tensor = self.network.quantize.embedding.weight.detach()
        return book

    def _vectors(self, pictures: Pixels) -> Tensor:
        """What is looked up in the codebook, [n, channels, h, w]."""
        found: Tensor = self.network.quant_conv(self.network.encoder(pictures))
        return found

    def _encode_some(self, pictures: Pixels) -> Codes:
        vectors = self._vectors(pictures).permute(0, 2, 3, 1)
        return nearest(vectors.flatten(0, 2), self._book()).reshape(*vectors.shape[:3], 1)


def _make(name: str, config: Mapping[str, Any]) -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigurationError(
            "this codec needs transformers: pip install 'gristmill[pretrained]'"
        ) from None
    # Not at the top of all of its releases.
    module = getattr(transformers.models, name.split("VQ")[0].lower())
    network, settings = getattr(module, name), getattr(module, f"{name}Config")
    try:
        return network(settings(**config))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"no configuration of {name}: {error}") from error


class JanusVq(_OfTransformers):
    """The tokenizer of LlamaGen (Sun et al. 2024), which Janus and Janus-Pro draw with: 16 px to a
    place, of 16,384 codes of unit length.

    Codes are looked up by direction, as LlamaGen has it and decoding presumes; transformers, which
    only decodes them, looks them up by distance.
    """

    kind = "pretrained-janus-vq"
    network_name = "JanusVQVAE"
    model_types = ("janus", "janus_vqgan")

    def __init__(
        self, *, side: int = 384, source: str = "", config: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(side=side, source=source, config=config)

    def _renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """LlamaGen's own names, also of the first releases of Janus."""
        middle = {"0": "block_1", "1": "attn_1", "2": "block_2"}
        found = {}
        for name, value in weights.items():
            way = "down" if name.startswith("encoder") else "up"
            name = re.sub(r"\.conv_blocks\.(\d+)\.res\.", rf".{way}.\1.block.", name)
            name = re.sub(r"\.conv_blocks\.(\d+)\.", rf".{way}.\1.", name)
            name = re.sub(r"\.mid\.([012])\.", lambda at: f".mid.{middle[at[1]]}.", name)
            found[name] = value
        return found

    def _book(self) -> Tensor:
        return F.normalize(super()._book(), dim=-1)

    def _vectors(self, pictures: Pixels) -> Tensor:
        return F.normalize(super()._vectors(pictures), dim=1)

    def _decode_some(self, grid: Codes) -> Pixels:
        vectors = self._book()[grid[..., 0]].permute(0, 3, 1, 2)
        decoded: Tensor = self.network.decoder(self.network.post_quant_conv(vectors))
        return decoded


class Emu3Vq(_OfTransformers):
    """The tokenizer of Emu3 (Wang et al. 2024): 8 px to a place, of 32,768 codes. It is one of
    videos; a picture is one that stands still for as many frames as make one of the grid."""

    kind = "pretrained-emu3-vq"
    network_name = "Emu3VQVAE"
    model_types = ("emu3", "emu3_vqgan")

    def __init__(
        self, *, side: int = 512, source: str = "", config: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(side=side, source=source, config=config)

    def _vectors(self, pictures: Pixels) -> Tensor:
        still = pictures[:, None].repeat(1, self.network.config.temporal_downsample_factor, 1, 1, 1)
        # Networks have [n, time, channels, h, w], convolutions over time [n, channels, time, h, w].
        hidden = self.network.encoder(still).transpose(1, 2)
        found: Tensor = self.network.quant_conv(hidden)[:, :, 0]
        return found

    def _decode_some(self, grid: Codes) -> Pixels:
        decoded: Tensor = self.network.decode(grid[..., 0])
        return decoded


class ChameleonVq(_OfTransformers):
    """The tokenizer of Chameleon (Chameleon team 2024), a VQGAN: 16 px to a place, of 8,192 codes.

    transformers has its encoder alone, and so have weights in its form. The decoder is that of the
    release, `--set decoder=vqgan.ckpt`, or lies beside the encoder (`decoder.*`, as Anole has it);
    without it pictures can be seen and not drawn.
    """

    kind = "pretrained-chameleon-vq"
    network_name = "ChameleonVQVAE"
    model_types = ("chameleon", "chameleon_vqgan")

    def __init__(
        self,
        *,
        side: int = 512,
        source: str = "",
        decoder: str = "",
        config: Mapping[str, Any] | None = None,
        decodes: bool = False,
    ) -> None:
        self._decoder = (decoder, decodes)
        super().__init__(side=side, source=source, config=config)

    def fields(self) -> Mapping[str, object]:
        return {**super().fields(), "decodes": self.decodes}

    def _prepared(self, network: nn.Module) -> nn.Module:
        self.decodes = self._decoder[1]
        if self.decodes:
            network.decoder = self._empty_decoder()
        return network

    def _empty_decoder(self) -> nn.Module:
        """That of Janus without attention in its lowest level."""
        names = ("base_channels", "channel_multiplier", "num_res_blocks", "latent_channels")
        janus = _make("JanusVQVAE", {key: self.config[key] for key in names if key in self.config})
        for level in janus.decoder.up:
            level.attn = nn.ModuleList()
        decoder: nn.Module = janus.decoder
        return decoder

    def _fill(self, source: str, weights: Mapping[str, Tensor]) -> None:
        if self._decoder[0]:
            file = read_part(self._decoder[0], _MARK)
            kept = ("decoder.", "post_quant_conv.")
            weights = {**weights, **{k: v for k, v in file.items() if k.startswith(kept)}}
        if any(name.startswith("decoder.") for name in weights):
            self.decodes = True
            self.network.decoder = self._empty_decoder()
            self._hold(self.network)
        super()._fill(source, _lowest_first(weights, len(self.network.config.channel_multiplier)))

    def _decode_some(self, grid: Codes) -> Pixels:
        if not self.decodes:
            raise ConfigurationError(
                "this codec of Chameleon has no decoder, it can see pictures and not draw them; "
                "make one with --set decoder=vqgan.ckpt of the release"
            )
        vectors = self._book()[grid[..., 0]].permute(0, 3, 1, 2)
        decoded: Tensor = self.network.decoder(self.network.post_quant_conv(vectors))
        return decoded


def _lowest_first(weights: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A VQGAN counts the levels of its decoder from the finest, Janus from the coarsest."""

    def turned(at: re.Match[str]) -> str:
        return f"decoder.up.{levels - 1 - int(at[1])}."

    return {re.sub(r"^decoder\.up\.(\d+)\.", turned, key): value for key, value in weights.items()}
