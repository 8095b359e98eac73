"""Tokenizers of Janus, Emu3 and Chameleon, with small weights made here: as in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from safetensors.torch import load_file, save_file
from transformers.models.chameleon import ChameleonVQVAE, ChameleonVQVAEConfig
from transformers.models.janus import JanusVQVAE, JanusVQVAEConfig

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import Codec, nearest, to_unit
from gristmill.model.codecs.pretrained_codebooks import ChameleonVq, Emu3Vq, JanusVq
from gristmill.model.codecs.registry import load_codec, save_codec, train_codec

# Norms have 32 groups.
_SIZES: dict[str, Any] = {
    "base_channels": 32, "channel_multiplier": [1, 1, 2], "num_res_blocks": 1, "embed_dim": 6,
}  # fmt: skip
_TEXT: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2,
}  # fmt: skip


def _shaken(network: Any) -> Any:
    """Weights that tell codes apart, and that no part of a network starts with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = 1.0 if "quantize" in name else 0.05
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def _janus(**more: Any) -> Any:
    config = JanusVQVAEConfig(
        **_SIZES, latent_channels=8, num_embeddings=40, num_patches=6, projection_dim=16,
        image_token_embed_dim=16, **more,
    )  # fmt: skip
    return _shaken(JanusVQVAE(config))


def _emu3() -> Any:
    config = transformers.models.emu3.Emu3VQVAEConfig(
        **_SIZES, latent_channels=6, codebook_size=40, attn_resolutions=[2], hidden_size=64,
    )  # fmt: skip
    return _shaken(transformers.models.emu3.Emu3VQVAE(config))


def _chameleon() -> Any:
    config = ChameleonVQVAEConfig(**_SIZES, latent_channels=8, num_embeddings=40, resolution=24)
    network = _shaken(ChameleonVQVAE(config))
    with torch.no_grad():
        # Codes that pictures come near to.
        vectors = network.quant_conv(network.encoder(_unit(2, 24, 24)))
        network.quantize.embedding.weight.copy_(vectors.transpose(0, 1).flatten(1).T[:40])
    return network


def _unit(*size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return to_unit(torch.randint(256, (*size, 3), dtype=torch.uint8, generator=generator))


def _comes_back(codec: Codec, folder: Path) -> Codec:
    """From its file, with nothing of where it came from."""
    save_codec(codec, str(folder / "codec.safetensors"))
    again = load_codec(str(folder / "codec.safetensors"))
    unit = _unit(2, 16, 24)
    assert torch.equal(again.encode(unit), codec.encode(unit))
    return again


@torch.no_grad()
def test_janus_is_that_of_transformers(tmp_path: Path) -> None:
    theirs = _janus()
    book = theirs.quantize.embedding.weight
    book.copy_(torch.nn.functional.normalize(book, dim=-1))
    theirs.save_pretrained(tmp_path / "vq")
    codec = JanusVq(side=24, source=str(tmp_path / "vq"))
    unit = _unit(3, 24, 24)
    expected = theirs.encode(unit).image_tokens.reshape(3, -1)
    codes = codec.encode(unit)
    assert codec.patch == 4 and codec.vocabularies == (40,) and codes.shape == (3, 6, 6, 1)
    assert torch.equal(codes.reshape(3, -1), expected) and len(codes.unique()) > 5
    decoded = theirs.decode(expected).clamp(-1, 1)
    torch.testing.assert_close(codec.decode(codes), decoded, atol=1e-5, rtol=1e-4)
    assert codec.decode(codec.encode(_unit(1, 16, 40))).shape == (1, 3, 16, 40)
    _comes_back(codec, tmp_path)


@torch.no_grad()
def test_codes_of_janus_are_looked_up_by_direction(tmp_path: Path) -> None:
    theirs = _janus()
    theirs.save_pretrained(tmp_path / "vq")
    codec = JanusVq(side=24, source=str(tmp_path / "vq"))
    unit = _unit(3, 24, 24)
    vectors = theirs.quant_conv(theirs.encoder(unit)).permute(0, 2, 3, 1)
    likeness = torch.nn.functional.cosine_similarity(
        vectors[..., None, :], theirs.quantize.embedding.weight, dim=-1
    )
    assert torch.equal(codec.encode(unit)[..., 0], likeness.argmax(dim=-1))
    assert not torch.equal(codec.encode(unit).reshape(-1), theirs.encode(unit).image_tokens)


@torch.no_grad()
def test_the_first_names_of_llamagen_are_read(tmp_path: Path) -> None:
    theirs = _janus()
    first = {}
    for name, value in theirs.state_dict().items():
        for ours, original in (
            (".mid.block_1.", ".mid.0."), (".mid.attn_1.", ".mid.1."), (".mid.block_2.", ".mid.2."),
            (".block.", ".res."), (".down.", ".conv_blocks."), (".up.", ".conv_blocks."),
        ):  # fmt: skip
            name = name.replace(ours, original)
        first[name] = value
    # As `torch.save` of its training has it; and as Janus was first released.
    torch.save({"model": first, "steps": 3}, tmp_path / "vq.pt")
    prefixed = {f"gen_vision_model.{name}": value for name, value in first.items()}
    save_file({**prefixed, "language.weight": torch.zeros(2)}, tmp_path / "whole.safetensors")
    theirs.save_pretrained(tmp_path / "vq")
    expected = JanusVq(side=24, source=str(tmp_path / "vq"))
    unit = _unit(2, 24, 24)
    for file in ("vq.pt", "whole.safetensors"):
        codec = JanusVq(side=24, source=str(tmp_path / file), config=expected.config)
        assert torch.equal(codec.encode(unit), expected.encode(unit))
        codes = expected.encode(unit)
        assert torch.equal(codec.decode(codes), expected.decode(codes))


@torch.no_grad()
def test_emu3_is_that_of_transformers(tmp_path: Path) -> None:
    theirs = _emu3()
    theirs.save_pretrained(tmp_path / "vq")
    codec = Emu3Vq(side=24, source=str(tmp_path / "vq"))
    assert codec.patch == 4 and codec.vocabularies == (40,)
    for size in ((3, 24, 24), (1, 16, 40)):
        unit = _unit(*size)
        sizes = torch.tensor([size[1:]] * size[0])
        expected = torch.stack(theirs.encode(unit, sizes).image_tokens)
        codes = codec.encode(unit)
        assert torch.equal(codes[..., 0], expected) and len(codes.unique()) > 5
        decoded = theirs.decode(expected).clamp(-1, 1)
        torch.testing.assert_close(codec.decode(codes), decoded, atol=1e-5, rtol=1e-4)
    _comes_back(codec, tmp_path)


@torch.no_grad()
def test_chameleon_sees_as_in_transformers_and_draws_with_a_decoder_only(tmp_path: Path) -> None:
    theirs = _chameleon()
    theirs.save_pretrained(tmp_path / "vq")
    codec = ChameleonVq(side=24, source=str(tmp_path / "vq"))
    unit = _unit(3, 24, 24)
    codes = codec.encode(unit)
    assert torch.equal(codes.reshape(-1), theirs.encode(unit).image_tokens)
    assert len(codes.unique()) > 5 and codec.patch == 4
    pictures = torch.randint(256, (4, 24, 24, 3), dtype=torch.uint8)
    train_codec(codec, pictures)
    assert codec.ceiling == {} and not codec.decodes and len(codec.frequencies) == 40
    assert not _comes_back(codec, tmp_path).decodes
    with pytest.raises(ConfigurationError, match=r"decoder=vqgan\.ckpt"):
        codec.decode(codes)


@torch.no_grad()
def test_a_decoder_of_a_vqgan_makes_chameleon_draw(tmp_path: Path) -> None:
    theirs = _chameleon()
    theirs.save_pretrained(tmp_path / "vq")
    seen = ChameleonVq(side=24, source=str(tmp_path / "vq"))
    whole = _shaken(ChameleonVq(side=24, config=seen.config, decodes=True).network)
    file = {name: value for name, value in whole.state_dict().items() if "decoder" in name}
    # A VQGAN counts its levels from the finest.
    file = {
        name.replace(f"up.{level}.", f"up.{2 - level}."): value
        for level in range(3)
        for name, value in file.items()
        if f"up.{level}." in name or (level == 0 and ".up." not in name)
    }
    weights = load_file(tmp_path / "vq" / "model.safetensors")
    file |= {name: value for name, value in weights.items() if "decoder" not in name}
    torch.save({"state_dict": file}, tmp_path / "vqgan.ckpt")

    sizes: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3, "block_out_channels": (32, 32, 64),
        "layers_per_block": 1, "latent_channels": 8, "norm_num_groups": 32,
    }  # fmt: skip
    oracle = diffusers.VQModel(**sizes, num_vq_embeddings=40, vq_embed_dim=6).eval()
    missing = oracle.load_state_dict(convert_ldm_vae_checkpoint(file, sizes), strict=False)
    assert missing.missing_keys == ["quantize.embedding.weight"] and not missing.unexpected_keys
    oracle.quantize.embedding.weight.copy_(theirs.quantize.embedding.weight)
    unit = _unit(2, 24, 24)
    expected = oracle(unit).sample.clamp(-1, 1)
    beside = str(tmp_path / "vqgan.ckpt")
    for codec in (
        ChameleonVq(side=24, source=str(tmp_path / "vq"), decoder=beside),
        ChameleonVq(side=24, source=beside, config=seen.config),
    ):
        codes = codec.encode(unit)
        assert torch.equal(codes, seen.encode(unit)) and codec.decodes
        torch.testing.assert_close(codec.decode(codes), expected, atol=1e-5, rtol=1e-4)
        again = _comes_back(codec, tmp_path)
        assert again.decodes and torch.equal(again.decode(codes), codec.decode(codes))


def test_the_tokenizer_of_a_whole_model_is_found_in_its_shards(tmp_path: Path) -> None:
    vq = _janus().config.to_dict()
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8, "projection_dim": 16, "num_image_tokens": 4, "mlp_ratio": 1.0,
    }  # fmt: skip
    config = transformers.JanusConfig(text_config=_TEXT, vision_config=vision, vq_config=vq)
    whole = transformers.JanusForConditionalGeneration(config)
    alone = _janus()
    whole.model.vqmodel.load_state_dict(alone.state_dict())
    whole.save_pretrained(tmp_path / "whole", max_shard_size="100KB")
    assert len(list((tmp_path / "whole").glob("*.safetensors"))) > 1
    alone.save_pretrained(tmp_path / "vq")
    codec = JanusVq(side=24, source=str(tmp_path / "whole"))
    expected = JanusVq(side=24, source=str(tmp_path / "vq"))
    unit = _unit(2, 24, 24)
    codes = expected.encode(unit)
    assert torch.equal(codec.encode(unit), codes)
    assert torch.equal(codec.decode(codes), expected.decode(codes))


def test_what_is_no_such_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="source=FOLDER"):
        JanusVq()
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        JanusVq(source=str(tmp_path))
    _emu3().save_pretrained(tmp_path / "emu3")
    with pytest.raises(ConfigurationError, match="'emu3_vqgan'; pretrained-janus-vq reads 'janus'"):
        JanusVq(source=str(tmp_path / "emu3"))
    theirs = _janus()
    theirs.save_pretrained(tmp_path / "vq")
    with pytest.raises(ConfigurationError, match="not those of its configuration"):
        JanusVq(source=str(tmp_path / "vq"), config={**_SIZES, "latent_channels": 9})
    (tmp_path / "vq" / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match=r"no model\.safetensors"):
        JanusVq(source=str(tmp_path / "vq"))
    save_file({"other.weight": torch.zeros(2)}, tmp_path / "vq" / "model.safetensors")
    with pytest.raises(ConfigurationError, match=r"no tensor named \.\.\.quantize"):
        JanusVq(source=str(tmp_path / "vq"))
    torch.save({"model": Path("x")}, tmp_path / "pickle.pt")
    with pytest.raises(ConfigurationError, match="more than tensors"):
        JanusVq(source=str(tmp_path / "pickle.pt"))


def test_the_nearest_of_many_codes_is_found_in_parts() -> None:
    rows, codes = torch.randn(40_000, 3), torch.randn(2100, 3)
    picked = torch.randint(len(rows), (50,))
    expected = torch.cdist(rows[picked], codes).argmin(dim=1)
    assert torch.equal(nearest(rows, codes)[picked], expected)
