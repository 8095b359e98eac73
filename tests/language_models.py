"""Language models of others, tiny and random, as `transformers` saves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer

from gristmill.model.documents.vocabulary import train_text

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 256,
}  # fmt: skip
_LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
_YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
_MOE = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
# Name -> class of the configuration, and what it is given.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"rms_norm_eps": 1e-5}),
    "llama-tied-biased": (
        "LlamaConfig",
        {
            "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
            "rope_parameters": _LLAMA3, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh",
        },
    ),
    "mistral": ("MistralConfig", {"sliding_window": 256, "rope_parameters": _YARN}),
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 12, "tie_word_embeddings": False}),
    "qwen3-moe": ("Qwen3MoeConfig", {"head_dim": 12, "norm_topk_prob": True, **_MOE}),
    "qwen3-moe-not-normalised": ("Qwen3MoeConfig", {"head_dim": 8, **_MOE}),
}  # fmt: skip


def tokenizer_file() -> str:
    """A byte-level BPE with the marks of a model that chats."""
    tokenizer = Tokenizer.from_str(
        train_text(["a small red circle", "how many shapes are there?", "make it green"] * 3, 290)
    )
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    return str(tokenizer.to_str())


def save_model(folder: Path, name: str, *, shard: str = "5GB", **changes: Any) -> Any:
    """A model of `MODELS` in a folder, and as `transformers` has it; 5 rows only fill up."""
    import transformers

    kind, given = MODELS[name]
    text = tokenizer_file()
    tokenizer = Tokenizer.from_str(text)
    end = tokenizer.token_to_id("<|im_end|>")
    config = getattr(transformers, kind)(
        **{
            **SIZES, **given, "vocab_size": tokenizer.get_vocab_size() + 5,
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"), "eos_token_id": end, **changes,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(model)
    model.save_pretrained(folder, max_shard_size=shard)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return model


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Numbers that make every part count: biases and gains too."""
    for name, parameter in model.named_parameters():
        parameter.normal_(std=0.15)
        if "norm" in name:
            parameter.add_(1)


@torch.no_grad()
def their_logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """[positions, rows] of one text."""
    logits: torch.Tensor = model(torch.tensor([list(ids)])).logits[0]
    return logits
