"""GGUF files of llama.cpp: weights dequantised, `config.json` and tokenizer made of the metadata.

Their tensors are read under the names that `transformers` has, so that a family needs one table.
Llama's queries and keys lie with the two numbers of a pair side by side; they are put back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.documents.vocabulary import PretrainedText
from gristmill.model.pretrained.decoder import Values
from gristmill.model.pretrained.families import FAMILIES
from gristmill.model.pretrained.gguf_text import gguf_text

_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")
# Llama 3's stretched frequencies are stored as what each pair is divided by.
_FACTORS = "rope_freqs.weight"
# GGUF's key, after the architecture's name -> that of `config.json`.
_KEYS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_theta",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "shared_expert_intermediate_size",
}


class GgufFile:
    """The tensors of a file under their names in `transformers`.

    Raises `ConfigurationError` for a file that cannot be read, or of an architecture that is not
    known.
    """

    def __init__(self, path: str) -> None:
        gguf = _require_gguf()
        try:
            self._reader = gguf.GGUFReader(path)
        except Exception as error:
            raise ConfigurationError(f"{path} is not a GGUF file: {error}") from error
        self.architecture = str(self._fact("general.architecture"))
        families = {kind: family for family in FAMILIES for kind in family.gguf}
        if self.architecture not in families:
            raise ConfigurationError(
                f"{path} is of architecture {self.architecture!r}; there are "
                f"{', '.join(sorted(families))}"
            )
        if int(self._fact("split.count", 1)) > 1:
            raise ConfigurationError(
                f"{path} is one of several files; join them with llama-gguf-split --merge"
            )
        self.family = families[self.architecture]
        self._dequantise: Callable[..., Any] = gguf.quants.dequantize
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.values = self._config()
        arch = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}[self.architecture]
        self._map = gguf.get_tensor_name_map(arch, int(self.values["num_hidden_layers"]))

    def _fact(self, key: str, default: object = None) -> Any:
        field = self._reader.fields.get(key)
        return default if field is None else field.contents()

    def _config(self) -> Values:
        """Its `config.json`."""
        values: dict[str, Any] = {"model_type": self.family.model_types[0]}
        for key, name in _KEYS.items():
            value = self._fact(f"{self.architecture}.{key}")
            if value is not None:
                values[name] = value
        heads = values["num_attention_heads"]
        if isinstance(heads, list):
            raise ConfigurationError("its layers have different numbers of heads")
        turned = self._fact(f"{self.architecture}.rope.dimension_count")
        head_dim = values.setdefault("head_dim", turned or values["hidden_size"] // heads)
        values.setdefault("vocab_size", len(self._fact("tokenizer.ggml.tokens")))
        # Stored in float32: 1e-6 is 9.99999997e-07 there.
        values["rms_norm_eps"] = float(f"{values['rms_norm_eps']:.6g}")
        values["tie_word_embeddings"] = "output.weight" not in self._tensors
        values["norm_topk_prob"] = bool(
            self._fact(f"{self.architecture}.expert_weights_norm", True)
        )
        values["attention_bias"] = self.architecture != "qwen2" and (
            "blk.0.attn_q.bias" in self._tensors
        )
        values["mlp_bias"] = "blk.0.ffn_up.bias" in self._tensors
        if turned and turned != head_dim:
            values["partial_rotary_factor"] = turned / head_dim
        values["rope_scaling"] = self._scaling(values)
        return values

    def _scaling(self, values: Values) -> dict[str, Any] | None:
        prefix = f"{self.architecture}.rope.scaling."
        kind = self._fact(f"{prefix}type", "none")
        original = self._fact(f"{prefix}original_context_length")
        if _FACTORS in self._tensors:
            return self._llama3(values, original)
        if kind == "none":
            return None
        found = {"rope_type": kind, "factor": self._fact(f"{prefix}factor", 1.0)}
        if original:
            found["original_max_position_embeddings"] = original
        factor = self._fact(f"{prefix}attn_factor")
        if kind == "yarn" and factor:
            found["attention_factor"] = factor * (1 + 0.1 * float(np.log(found["factor"])))
        return found

    def _llama3(self, values: Values, original: int | None) -> dict[str, Any]:
        """The stretching that gives the stored factors; Llama 3.1, 3.2 and 3.3 differ in one
        number."""
        from gristmill.model.network.rotary import RopeScaling

        stored = self._tensor(_FACTORS)
        head_dim, base = int(values["head_dim"]), float(values.get("rope_theta", 10000.0))
        plain = 1.0 / base ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        scaling = RopeScaling(
            kind="llama3", factor=float(stored.max()), original_positions=original or 8192
        )
        expected = plain / scaling.apply(plain, base)
        if expected.shape != stored.shape or not torch.allclose(expected, stored, rtol=1e-3):
            raise ConfigurationError(
                "its rotary frequencies are stretched otherwise than Llama 3's; import the folder "
                "with config.json"
            )
        return {
            "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": scaling.original_positions,
        }  # fmt: skip

    def text(self) -> tuple[str, PretrainedText]:
        """Its tokenizer as a `tokenizers` file, and what there is beside it."""
        return gguf_text(self._fact, int(self.values["vocab_size"]))

    def names(self) -> list[str]:
        """Names in `transformers` of all tensors that the file has; those it has not, under
        GGUF's."""
        found = set(self._tensors) - {_FACTORS}
        names = []
        for theirs in self._names_in_transformers():
            stored = self._stored_name(theirs)
            if stored in self._tensors:
                names.append(theirs)
                found.discard(stored)
        return names + sorted(found)

    def _names_in_transformers(self) -> list[str]:
        config = self.family.config(self.values)
        table = self.family.names(config).values()
        return [name for parts in table for name in parts.all_names()]

    def _stored_name(self, name: str) -> str:
        expert = _EXPERT.fullmatch(name)
        if expert:
            name = f"{expert[1]}.{expert[3]}_proj.weight"
        found: str | None = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        return found or name

    def read(self, name: str) -> Tensor:
        """One tensor in float32."""
        expert = _EXPERT.fullmatch(name)
        if expert:
            return self._tensor(self._stored_name(name), int(expert[2]))
        value = self._tensor(self._stored_name(name))
        projection = re.search(r"\.self_attn\.([qk])_proj\.", name)
        if self.architecture == "llama" and projection:
            query = projection[1] == "q"
            heads = self.values["num_attention_heads" if query else "num_key_value_heads"]
            return _pairs_apart(value, int(heads))
        return value

    def _tensor(self, name: str, expert: int | None = None) -> Tensor:
        tensor = self._tensors[name]
        data = tensor.data if expert is None else tensor.data[expert]
        try:
            values = self._dequantise(data, tensor.tensor_type)
        except NotImplementedError as error:
            raise ConfigurationError(f"{name}: {error}; choose another quantisation") from error
        return torch.from_numpy(np.array(values, np.float32))


def _pairs_apart(value: Tensor, heads: int) -> Tensor:
    """Rows of a head from (pair, half) to (half, pair), which `rotate` turns."""
    paired = value.view(heads, -1, 2, *value.shape[1:])
    return paired.transpose(1, 2).reshape(value.shape)


def _require_gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise ConfigurationError(
            "GGUF files need the package gguf: pip install 'gristmill[gguf]'"
        ) from None
    return gguf
