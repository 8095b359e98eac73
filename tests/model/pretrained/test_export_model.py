"""What is written back is loaded by `transformers`, and is the same model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_models import MODELS, TEMPLATE, save_model, their_logits
from safetensors import safe_open

from gristmill.errors import ConfigurationError
from gristmill.model import load
from gristmill.model.documents.batch import pack
from gristmill.model.documents.segments import TextSegment
from gristmill.model.pretrained.export_model import export_model
from gristmill.model.pretrained.import_model import import_model
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig


def _theirs(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


@pytest.mark.parametrize("name", MODELS)
def test_an_imported_model_goes_back_as_it_came(name: str, tmp_path: Path) -> None:
    before = save_model(tmp_path / "theirs", name)
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    export_model(str(tmp_path / "ours"), str(tmp_path / "again"))
    after = _theirs(tmp_path / "again")
    # Families that are alike but for their name go by one of them.
    assert type(after) is type(before) or name == "mistral"
    ids = [5, 60, 7, 8, 200]
    assert torch.allclose(their_logits(after, ids), their_logits(before, ids), atol=1e-5)
    state, known = after.state_dict(), before.state_dict()
    assert state.keys() == known.keys()
    assert all(torch.equal(state[key], known[key]) for key in known)


def test_its_tokenizer_and_template_go_with_it(tmp_path: Path) -> None:
    import transformers

    save_model(tmp_path / "theirs", "qwen3")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    export_model(str(tmp_path / "ours"), str(tmp_path / "again"))
    before, after = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("theirs", "again")
    )
    assert after.chat_template == TEMPLATE
    asked = [{"role": "user", "content": "how many?"}]
    assert after.apply_chat_template(asked, tokenize=False) == before.apply_chat_template(
        asked, tokenize=False
    )
    assert (
        after("make it green <|im_end|>").input_ids == before("make it green <|im_end|>").input_ids
    )
    assert after.eos_token == "<|im_end|>"
    marks = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert marks["eos_token_id"] == after.eos_token_id


def test_large_models_are_written_in_several_files(tmp_path: Path) -> None:
    before = save_model(tmp_path / "theirs", "llama", shard="20kB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    ours = tmp_path / "ours"
    import_model(str(tmp_path / "theirs"), str(ours), shard_bytes=30_000)
    files = sorted(ours.glob("model-*-of-*.safetensors"))
    assert len(files) > 2 and not (ours / "model.safetensors").exists()
    load(str(ours), "cpu")
    export_model(str(ours), str(tmp_path / "again"), shard_bytes=30_000)
    assert len(list((tmp_path / "again").glob("model-*-of-*.safetensors"))) > 2
    after = _theirs(tmp_path / "again")
    assert torch.equal(their_logits(after, [5, 9]), their_logits(before, [5, 9]))


def test_half_precision_stays_what_it_is(tmp_path: Path) -> None:
    model = save_model(tmp_path / "theirs", "qwen2")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    export_model(str(tmp_path / "ours"), str(tmp_path / "again"))
    with safe_open(tmp_path / "again" / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
        assert {file.get_tensor(name).dtype for name in names} == {torch.bfloat16}
    assert torch.equal(_theirs(tmp_path / "again").lm_head.weight, model.lm_head.weight)


def test_mixtures_of_transformers_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "theirs", "llama")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"), experts="mot")
    with pytest.raises(ConfigurationError, match="two experts"):
        export_model(str(tmp_path / "ours"), str(tmp_path / "again"))


@pytest.mark.parametrize("experts", ["dense", "moe"])
def test_a_model_from_zero_is_one_that_transformers_knows(
    experts: str, config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    import transformers

    wanted = config(experts=experts, steps=3, save_every=3)
    train(wanted)
    ours = load(wanted.out, "cpu")
    document = ours.bundle.writer.write(
        [TextSegment("a small red star", is_target=True, ends=True)], [], np.random.default_rng(0)
    )
    with torch.no_grad():
        hidden, *_ = ours.model.hidden(pack([[document]], len(document)))
        start = ours.bundle.vocabulary.text_start
        expected = ours.model.logits(hidden, start, start + ours.bundle.vocabulary.text_size)
    said = export_model(wanted.out, str(tmp_path / "theirs"))
    # What knows of pictures stays behind, and is named.
    assert "place_in.weight" in said
    theirs = _theirs(tmp_path / "theirs")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    text = tokenizer("a small red star").input_ids
    ids = [tokenizer.bos_token_id, *text, tokenizer.eos_token_id]
    assert theirs.config.bos_token_id == tokenizer.bos_token_id
    got = their_logits(theirs, ids)[:, : expected.shape[1]]
    assert torch.allclose(got, expected, atol=1e-4)
    # The raw weights of the last step are others, and no less whole.
    export_model(wanted.out, str(tmp_path / "last"), weights="last")
    last = _theirs(tmp_path / "last")
    moved = {k for k, v in last.state_dict().items() if not torch.equal(v, theirs.state_dict()[k])}
    assert "model.layers.0.self_attn.q_proj.weight" in moved


def test_raw_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path / "theirs", "llama")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    with pytest.raises(ConfigurationError, match="no checkpoint"):
        export_model(str(tmp_path / "ours"), str(tmp_path / "again"), weights="last")
