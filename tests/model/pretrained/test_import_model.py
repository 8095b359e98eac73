"""What is imported is whole and known, or refused with a reason; what is new starts quietly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_models import SIZES, save_model, tokenizer_file
from model_world import World
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from gristmill.errors import ConfigurationError, GristmillError, TrainingError
from gristmill.model import load
from gristmill.model.documents.batch import pack
from gristmill.model.documents.segments import TextSegment
from gristmill.model.pretrained.decoder import rope
from gristmill.model.pretrained.families import family_of
from gristmill.model.pretrained.import_model import import_model


def _change(folder: Path, file: str = "config.json", **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "window": ("mistral", {"sliding_window": 32}, "sliding_window"),
    "window by layers": ("qwen3", {"layer_types": ["linear_attention"] * 2}, "linear_attention"),
    "rope": ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
    "partial": ("llama", {"partial_rotary_factor": 0.5}, "50%"),
    "activation": ("llama", {"hidden_act": "relu2"}, "relu2"),
    "quantised": ("llama", {"quantization_config": {"quant_method": "fp8"}}, "quantised"),
    "dense layers": ("qwen3-moe", {"mlp_only_layers": [0]}, "no learned experts"),
    "family": ("llama", {"model_type": "mamba"}, "'mamba'"),
    "missing": ("llama", {"num_hidden_layers": 3}, "layers.2"),
    "left over": ("llama", {"num_hidden_layers": 1}, "no part of the model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_before_anything_is_written(case: str, tmp_path: Path) -> None:
    name, values, message = REFUSED[case]
    save_model(tmp_path / "theirs", name)
    _change(tmp_path / "theirs", **values)
    with pytest.raises(ConfigurationError, match=message):
        import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    assert not list((tmp_path / "ours").glob("*"))


def test_a_window_as_wide_as_the_text_or_never_used_is_none(tmp_path: Path) -> None:
    plain = {**SIZES, "model_type": "qwen2", "vocab_size": 300, "sliding_window": 16}
    assert family_of(plain).config({**plain, "use_sliding_window": False}).layers == 2
    assert family_of(plain).config({**plain, "max_window_layers": 2}).layers == 2
    assert family_of(plain).config({**plain, "sliding_window": 256}).layers == 2
    with pytest.raises(ConfigurationError, match="sliding_window"):
        family_of(plain).config({**plain, "use_sliding_window": True, "max_window_layers": 1})


def test_rope_is_read_in_the_spelling_of_any_year() -> None:
    assert rope({"rope_theta": 5e5})[0] == 5e5
    assert rope({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})[0] == 1e6
    base, old = rope({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}})
    assert (base, old.kind, old.factor) == (1e4, "linear", 2.0)
    stretched = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert rope({"rope_scaling": stretched})[1].attention_factor == pytest.approx(1.1386, abs=1e-4)
    assert rope({"rope_scaling": {**stretched, "attention_factor": 1.0}})[1].attention_factor == 1
    deep = {**stretched, "mscale": 1.0, "mscale_all_dim": 1.0}
    assert rope({"rope_scaling": deep})[1].attention_factor == 1


def test_places_where_no_model_is(tmp_path: Path) -> None:
    out = str(tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"x")
    for where, message in (
        (tmp_path / "empty", "no config.json"),
        (tmp_path / "nowhere", "there is no"),
        (tmp_path / "weights.bin", "not a GGUF"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            import_model(str(where), out)
    save_model(tmp_path / "theirs", "llama")
    (tmp_path / "theirs" / "tokenizer.json").unlink()
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json"):
        import_model(str(tmp_path / "theirs"), out)
    save_model(tmp_path / "theirs", "llama")
    (tmp_path / "theirs" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(GristmillError, match="cannot be read"):
        import_model(str(tmp_path / "theirs"), out)


def test_learned_experts_may_lie_stacked_or_one_by_one(tmp_path: Path) -> None:
    theirs = save_model(tmp_path / "theirs", "qwen3-moe")
    stored = load_file(tmp_path / "theirs" / "model.safetensors")
    mlp = "model.layers.0.mlp.experts"
    assert f"{mlp}.0.gate_proj.weight" in stored and f"{mlp}.gate_up_proj" not in stored
    import_model(str(tmp_path / "theirs"), str(tmp_path / "one by one"))
    # As they are in memory.
    save_file(
        {name: value.contiguous() for name, value in theirs.state_dict().items()},
        tmp_path / "theirs" / "model.safetensors",
    )
    import_model(str(tmp_path / "theirs"), str(tmp_path / "stacked"))
    first, second = (
        load_file(tmp_path / name / "model.safetensors") for name in ("one by one", "stacked")
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_files_that_an_index_names_must_be_there(tmp_path: Path) -> None:
    save_model(tmp_path / "theirs", "llama", shard="20kB")
    next((tmp_path / "theirs").glob("model-00002-*")).unlink()
    with pytest.raises(TrainingError, match="is not there"):
        import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))


def test_marks_are_the_models_own(tmp_path: Path) -> None:
    save_model(tmp_path / "theirs", "qwen2")
    tokenizer = Tokenizer.from_str(tokenizer_file())
    start, turn, end = (
        tokenizer.token_to_id(mark) for mark in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    )
    # An id that no tokenizer has ends nothing.
    _change(tmp_path / "theirs", "generation_config.json", eos_token_id=[start, end, 9999])
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    vocabulary = load(str(tmp_path / "ours"), "cpu").bundle.vocabulary
    first = vocabulary.text_start
    # Qwen names no start mark; its documents follow the end of others.
    assert vocabulary.bos == first + start
    assert vocabulary.eos == first + end
    assert vocabulary.ends == (first + end, first + start)
    assert vocabulary.text_rows == vocabulary.text_size + 5
    assert vocabulary.encode_control("<|im_start|>") == [first + turn]
    assert vocabulary.named_tokens["eos_token"] == "<|im_end|>"


def test_new_rows_begin_as_the_mean_of_the_text(tmp_path: Path) -> None:
    theirs = save_model(tmp_path / "theirs", "llama")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    model = load(str(tmp_path / "ours"), "cpu")
    vocabulary = model.bundle.vocabulary
    for table, old in (
        (model.model.embed.weight, theirs.model.embed_tokens.weight),
        (model.model.output_weight, theirs.lm_head.weight),
    ):
        # Rows that only fill up are no text.
        mean = old[: vocabulary.text_size].mean(dim=0)
        assert torch.allclose(table[: vocabulary.text_start], mean.expand(267, -1), atol=1e-6)
        assert torch.equal(table[vocabulary.text_start :], old)


def test_a_model_without_pictures_says_so(tmp_path: Path) -> None:
    save_model(tmp_path / "theirs", "llama")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    model = load(str(tmp_path / "ours"), "cpu")
    picture = np.zeros((8, 8, 3), np.uint8)
    for ask in (
        lambda: model.generate(["a red star"]),
        lambda: model.describe([picture]),
        lambda: model.ask([picture], ["how many?"]),
        lambda: model.edit([picture], ["make it green"]),
    ):
        with pytest.raises(ConfigurationError, match="text alone"):
            ask()


def test_paradigms_that_need_a_codec_are_refused_without(tmp_path: Path) -> None:
    save_model(tmp_path / "theirs", "llama")
    with pytest.raises(ConfigurationError, match="--codec"):
        import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"), paradigm="flow")
    with pytest.raises(ConfigurationError, match="mot can be made"):
        import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"), experts="moe")


@pytest.mark.parametrize("paradigm", ["ar", "flow", "flow-semantic", "query"])
def test_with_a_codec_it_draws_and_its_text_is_what_it_was(
    paradigm: str, world: World, tmp_path: Path
) -> None:
    save_model(tmp_path / "theirs", "qwen3")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "text"))
    codec = world.codes if paradigm == "ar" else world.latents
    encoder = world.encoder if paradigm in ("flow-semantic", "query") else ""
    import_model(
        str(tmp_path / "theirs"), str(tmp_path / "ours"), paradigm=paradigm, experts="mot",
        codec=codec, encoder=encoder,
    )  # fmt: skip
    before, after = (load(str(tmp_path / name), "cpu") for name in ("text", "ours"))
    logits = []
    for model in (before, after):
        vocabulary, writer = model.bundle.vocabulary, model.bundle.writer
        segments = [TextSegment("a small red circle", is_target=True, ends=True)]
        document = writer.write(segments, [], np.random.default_rng(0))
        with torch.no_grad():
            hidden, *_ = model.model.hidden(pack([[document]], len(document)))
        start = vocabulary.text_start
        logits.append(model.model.logits(hidden, start, start + vocabulary.text_size))
    assert torch.allclose(*logits, atol=1e-5)
    drawn = after.generate(["a small red circle"])
    assert drawn[0].shape[2] == 3
    # A place tells nothing of itself yet, and what is seen is as loud as what is read.
    assert not after.model.place_in.weight.any()
    if encoder:
        seen = after.model.semantic_proj(torch.randn(200, after.bundle.layout.semantic_width))
        text = after.model.embed.weight[after.bundle.vocabulary.text_start :]
        assert 0.1 < float((seen.std() / text.std()).detach()) < 3


def test_the_folder_of_a_training_is_left_alone(tmp_path: Path) -> None:
    save_model(tmp_path / "theirs", "llama")
    (tmp_path / "ours" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="folder of a training"):
        import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
