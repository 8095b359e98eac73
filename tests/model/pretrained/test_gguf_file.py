"""GGUF files, written here as llama.cpp's converter writes them: the same logits, the same text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from language_models import TEMPLATE, save_model, their_logits, tokenizer_file
from tokenizers import Tokenizer, pre_tokenizers

from gristmill.errors import ConfigurationError
from gristmill.model import load
from gristmill.model.documents.batch import pack
from gristmill.model.documents.segments import TextSegment
from gristmill.model.pretrained.import_model import import_model

ARCHITECTURES = {
    "llama": "llama", "llama-tied": "llama", "qwen2": "qwen2", "qwen3": "qwen3",
    "qwen3-moe": "qwen3moe",
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {"llama-tied": {"tie_word_embeddings": True, "head_dim": 16}}
# Of the model that is made, where the file's name is not its own.
MADE = {"llama-tied": "llama"}


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_file())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def write_gguf(path: Path, model: Any, architecture: str, **changes: Any) -> None:
    """A file of a model of `transformers`; with `kind` its matrices are quantised, and the model
    has what is left of them."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or (
        config.hidden_size // config.num_attention_heads
    )
    writer.add_key_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if architecture == "qwen3moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    _write_tokenizer(writer, config.vocab_size, changes.pop("pre", "gpt-2"))
    for key, value in changes.pop("facts", {}).items():
        writer.add_key_value(key, *value)
    for name, value in changes.pop("tensors", {}).items():
        writer.add_tensor(name, value)
    _write_tensors(writer, model, architecture, changes.pop("kind", None))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_tokenizer(writer: gguf.GGUFWriter, rows: int, pre: str) -> None:
    tokenizer = _tokenizer()
    tokens = [tokenizer.id_to_token(i) for i in range(tokenizer.get_vocab_size())]
    types = [3 if token.startswith("<|") else 1 for token in tokens]
    # The converter names rows that only fill up.
    fill = rows - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in range(fill)])
    writer.add_token_types(types + [5] * fill)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.token_to_id("<|im_start|>"))
    writer.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_chat_template(TEMPLATE)


def _write_tensors(
    writer: gguf.GGUFWriter, model: Any, architecture: str, kind: gguf.GGMLQuantizationType | None
) -> None:
    names = gguf.get_tensor_name_map(
        {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[architecture],
        model.config.num_hidden_layers,
    )
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        data = value.numpy()
        heads = {"q": model.config.num_attention_heads, "k": model.config.num_key_value_heads}
        found = re.search(r"self_attn\.([qk])_proj", name)
        if architecture == "llama" and found:
            halves = data.reshape(heads[found[1]], 2, -1, *data.shape[1:])
            data = halves.swapaxes(1, 2).reshape(data.shape)
        if name.endswith("gate_up_proj"):
            for part, half in zip(("gate", "up"), np.split(data, 2, axis=1), strict=True):
                stored = names.get_name(name.replace("gate_up_proj", f"{part}_proj"))
                writer.add_tensor(f"{stored}.weight", np.ascontiguousarray(half))
            continue
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is None:
            stored = names.get_name(name) + ".weight"
        elif name.endswith("experts.down_proj"):
            stored += ".weight"
        if kind is not None and _is_quantised(name):
            packed = gguf.quants.quantize(np.ascontiguousarray(data), kind)
            writer.add_tensor(stored, packed, raw_dtype=kind)
            continue
        writer.add_tensor(stored, np.ascontiguousarray(data))


def _is_quantised(name: str) -> bool:
    """Those whose rows are whole blocks of 32."""
    return re.search(r"(q|k|v|gate|up)_proj", name) is not None


def _make(tmp_path: Path, name: str, **changes: Any) -> tuple[Any, Any]:
    """The model as `transformers` has it, and as we read it of a file."""
    theirs = save_model(tmp_path / "theirs", MADE.get(name, name), **CHANGES.get(name, {}))
    write_gguf(tmp_path / "model.gguf", theirs, ARCHITECTURES[name], **changes)
    import_model(str(tmp_path / "model.gguf"), str(tmp_path / "ours"))
    return theirs, load(str(tmp_path / "ours"), "cpu")


def _agree(theirs: Any, ours: Any, atol: float = 1e-4) -> None:
    document = ours.bundle.writer.write(
        [TextSegment("how many small circles?", is_target=True)], [], np.random.default_rng(0)
    )
    vocabulary = ours.bundle.vocabulary
    start = vocabulary.text_start
    with torch.no_grad():
        hidden, *_ = ours.model.hidden(pack([[document]], len(document)))
        got = ours.model.logits(hidden, start, start + vocabulary.text_rows)
    expected = their_logits(theirs, (document.ids - start).tolist())
    assert torch.allclose(got, expected, atol=atol)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    theirs, ours = _make(tmp_path, name)
    _agree(theirs, ours)
    assert ours.bundle.model_config.positions == 256


def test_the_text_is_made_of_tokens_and_merges(tmp_path: Path) -> None:
    _, ours = _make(tmp_path, "llama")
    vocabulary, tokenizer = ours.bundle.vocabulary, _tokenizer()
    for text in ("a small red circle", "Grüße, 3 circles!\n\n  <|im_end|> 猫", ""):
        ids = [i - vocabulary.text_start for i in vocabulary.encode_control(text)]
        assert ids == tokenizer.encode(text, add_special_tokens=False).ids
        assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.eos == vocabulary.text_start + tokenizer.token_to_id("<|im_end|>")
    assert vocabulary.bos == vocabulary.text_start + tokenizer.token_to_id("<|im_start|>")
    assert vocabulary.chat_template == TEMPLATE
    assert vocabulary.named_tokens["eos_token"] == "<|im_end|>"


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16"])
def test_quantised_matrices_are_what_is_left_of_them(kind: str, tmp_path: Path) -> None:
    quantised = gguf.GGMLQuantizationType[kind]
    theirs, ours = _make(tmp_path, "qwen3", kind=quantised)
    for name, value in theirs.state_dict().items():
        if _is_quantised(name):
            left = gguf.quants.dequantize(gguf.quants.quantize(value.numpy(), quantised), quantised)
            assert not np.array_equal(left, value.numpy())
            value.copy_(torch.from_numpy(np.array(left, np.float32)))
    _agree(theirs, ours)


def test_llama_3_stretches_by_stored_factors(tmp_path: Path) -> None:
    stretched = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    theirs = save_model(tmp_path / "theirs", "llama", rope_parameters=stretched, head_dim=32)
    plain = 1 / 500000.0 ** (np.arange(0, 32, 2) / 32)
    factors = plain / theirs.model.rotary_emb.inv_freq.numpy()
    write_gguf(
        tmp_path / "model.gguf", theirs, "llama",
        tensors={"rope_freqs.weight": factors.astype(np.float32)},
    )  # fmt: skip
    import_model(str(tmp_path / "model.gguf"), str(tmp_path / "ours"))
    _agree(theirs, load(str(tmp_path / "ours"), "cpu"))
    write_gguf(
        tmp_path / "other.gguf", theirs, "llama",
        tensors={"rope_freqs.weight": np.linspace(1, 9, 16, dtype=np.float32)},
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="stretched otherwise"):
        import_model(str(tmp_path / "other.gguf"), str(tmp_path / "none"))


def test_files_that_are_not_known_are_refused(tmp_path: Path) -> None:
    theirs = save_model(tmp_path / "theirs", "llama")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF but not really")
    with pytest.raises(ConfigurationError, match="not a GGUF file"):
        import_model(str(path), str(tmp_path / "ours"))
    write_gguf(path, theirs, "llama", pre="tekken")
    with pytest.raises(ConfigurationError, match="tekken"):
        import_model(str(path), str(tmp_path / "ours"))
    several = {"split.count": (3, gguf.GGUFValueType.UINT16)}
    write_gguf(path, theirs, "llama", facts=several)
    with pytest.raises(ConfigurationError, match="one of several"):
        import_model(str(path), str(tmp_path / "ours"))
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ConfigurationError, match="'mamba'"):
        import_model(str(path), str(tmp_path / "ours"))
    assert not list((tmp_path / "ours").glob("*"))
