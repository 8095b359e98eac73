"""Rotary positions: those of the language models and of their successors that see."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from gristmill.errors import ConfigurationError
from gristmill.model.network.configurations import nano
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.rotary import (
    RopeScaling,
    Rotary,
    axis_of_pairs,
    place_features,
    rotate,
)
from gristmill.model.training.sharding import materialise


def _grid(time: int, rows: int, columns: int) -> list[tuple[int, int, int]]:
    return [(time, time + row, time + column) for row in range(rows) for column in range(columns)]


# Text, a picture at time 5, then text behind its largest position.
POS = torch.tensor([[(t, t, t) for t in range(5)] + _grid(5, 3, 4) + [(9, 9, 9), (10, 10, 10)]])


@pytest.mark.parametrize("interleaved", [True, False])
def test_text_has_the_angles_of_one_axis(interleaved: bool) -> None:
    rotary = Rotary(12, 10000.0, (2, 2, 2), interleaved)
    times = torch.arange(40)
    cos, sin = rotary(times[None, :, None].expand(1, 40, 3))
    angles = times[:, None].float() / 10000.0 ** (torch.arange(6) / 6)
    assert torch.allclose(cos[:, 0], angles.cos(), atol=1e-6)
    assert torch.allclose(sin[:, 0], angles.sin(), atol=1e-6)


def test_every_axis_has_its_pairs() -> None:
    assert axis_of_pairs((2, 3, 1), False) == [0, 0, 1, 1, 1, 2]
    assert axis_of_pairs((4, 2, 2), True) == [0, 1, 2, 0, 1, 2, 0, 0]
    assert Rotary(32, 10000.0).axis.bincount().tolist() == [6, 5, 5]


def test_angles_of_pictures_are_those_of_qwen2_5_vl() -> None:
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    config = Qwen2_5_VLTextConfig(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=1, rope_parameters=rope
    )
    _agree(Qwen2_5_VLRotaryEmbedding(config), Rotary(16, 1e6, (2, 3, 3), False))


def test_angles_of_pictures_are_those_of_qwen3_vl() -> None:
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2]}
    config = Qwen3VLTextConfig(
        hidden_size=32, num_attention_heads=2, head_dim=16, rope_parameters=rope
    )
    _agree(Qwen3VLTextRotaryEmbedding(config), Rotary(16, 5e6, (4, 2, 2), True))


def _agree(theirs: Any, ours: Rotary) -> None:
    cos, sin = theirs(torch.zeros(1), POS.permute(2, 0, 1))
    got_cos, got_sin = ours(POS)
    # Theirs repeats the pairs' angles for the second halves of heads.
    pairs = got_cos.shape[-1]
    assert torch.allclose(got_cos[:, 0], cos[0, :, :pairs], atol=1e-5)
    assert torch.allclose(got_sin[:, 0], sin[0, :, :pairs], atol=1e-5)


SCALED = {
    "linear": ({"factor": 4.0}, RopeScaling(kind="linear", factor=4.0)),
    "llama3": (
        {
            "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
        RopeScaling(kind="llama3", factor=8.0, original_positions=256),
    ),
    "yarn": (
        {"factor": 4.0, "original_max_position_embeddings": 512},
        RopeScaling(
            kind="yarn", factor=4.0, original_positions=512, attention_factor=1.1386294361
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SCALED)
def test_stretched_frequencies_are_those_of_transformers(kind: str) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    parameters, scaling = SCALED[kind]
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
        rope_parameters={"rope_type": kind, "rope_theta": 10000.0, **parameters},
    )  # fmt: skip
    _agree_on_text(LlamaRotaryEmbedding(config), Rotary(32, 10000.0, scaling=scaling))


def _agree_on_text(theirs: Any, ours: Rotary) -> None:
    times = torch.arange(0, 2000, 7)[None]
    cos, sin = theirs(torch.zeros(1), times)
    got_cos, got_sin = ours(times[:, :, None].expand(-1, -1, 3))
    assert torch.allclose(got_cos[:, 0], cos[0, :, :16], atol=1e-4)
    assert torch.allclose(got_sin[:, 0], sin[0, :, :16], atol=1e-4)
    unstretched = Rotary(32, 10000.0)(times[:, :, None].expand(-1, -1, 3))[0]
    assert not torch.allclose(got_cos, unstretched, atol=1e-2)


def test_turning_keeps_lengths_and_sees_distances_alone() -> None:
    rotary = Rotary(16, 10000.0)
    torch.manual_seed(0)
    x = torch.randn(POS.shape[1], 2, 16)
    turned = rotate(x, *rotary(POS))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    later = rotate(x, *rotary(POS + 100))
    assert torch.allclose(turned[3] @ turned[9].T, later[3] @ later[9].T, atol=1e-4)


def test_features_of_a_place_do_not_depend_on_the_time_of_its_picture() -> None:
    first, second = (torch.tensor([_grid(time, 3, 4)]) for time in (2, 77))
    features = place_features(first)
    assert torch.equal(features, place_features(second))
    assert features.shape == (1, 12, 16)
    # Twelve places, twelve features.
    assert len({tuple(row) for row in features[0].tolist()}) == 12
    # Text stands at row 0, column 0.
    assert torch.equal(place_features(torch.full((1, 1, 3), 9))[0, 0], features[0, 0])


def test_a_model_made_on_the_meta_device_gets_its_angles_when_it_gets_memory() -> None:
    with torch.device("meta"):
        rotary = Rotary(16, 10000.0)
    materialise(rotary, torch.device("cpu"))
    assert torch.equal(rotary.frequencies, Rotary(16, 10000.0).frequencies)


def test_sections_that_do_not_fill_the_head_are_refused() -> None:
    for sections, interleaved in (((2, 2, 3), False), ((2, 2, 2, 0), True), ((0, 3, 3), True)):
        config = nano(64, rope_sections=sections, rope_interleaved=interleaved)
        with pytest.raises(ConfigurationError, match="rope_sections"):
            config.check()
    with pytest.raises(ConfigurationError, match="original positions"):
        nano(64, rope_scaling=RopeScaling(kind="yarn", factor=2.0)).check()
    with pytest.raises(ConfigurationError, match="rope scaling"):
        nano(64, rope_scaling=RopeScaling(kind="dynamic")).check()


def test_a_configuration_survives_json() -> None:
    import json

    scaling = RopeScaling(kind="linear", factor=2.0)
    config = nano(64, rope_sections=(2, 2, 2), rope_interleaved=False, rope_scaling=scaling)
    config.check()
    assert ModelConfig.from_facts(json.loads(json.dumps(dataclasses.asdict(config)))) == config
