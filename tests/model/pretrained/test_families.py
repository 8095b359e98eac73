"""Each family gives the logits that `transformers` gives: whole, read on from a cache, packed with
other documents, by both experts of a mixture of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from language_models import MODELS, save_model, their_logits

from gristmill.model import load
from gristmill.model.documents.batch import Document, PackedBatch, pack
from gristmill.model.documents.segments import TextSegment
from gristmill.model.network.blocks import Cache
from gristmill.model.pretrained.import_model import import_model
from gristmill.model.sampling.unified import Unified

TEXTS = ("how many small red circles?", "make it green and then a small red one", "a")


@dataclass
class Both:
    """One model twice."""

    theirs: Any
    ours: Unified
    folder: Path

    def document(self, text: str) -> Document:
        return self.ours.bundle.writer.write(
            [TextSegment(text, is_target=True, ends=True)], [], np.random.default_rng(0)
        )

    def expected(self, document: Document) -> torch.Tensor:
        ids = document.ids - self.ours.bundle.vocabulary.text_start
        return their_logits(self.theirs, ids.tolist())

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of text alone, as theirs are."""
        vocabulary = self.ours.bundle.vocabulary
        start = vocabulary.text_start
        return self.ours.model.logits(hidden, start, start + vocabulary.text_rows)


@pytest.fixture(scope="module", params=MODELS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("model")
    theirs = save_model(folder / "theirs", request.param)
    import_model(str(folder / "theirs"), str(folder / "ours"))
    return Both(theirs, load(str(folder / "ours"), "cpu"), folder)


def _whole(both: Both, batch: PackedBatch) -> torch.Tensor:
    with torch.no_grad():
        hidden, _ = both.ours.model.hidden(batch)
        return both.logits(hidden)


def test_a_whole_text(both: Both) -> None:
    document = both.document(TEXTS[0])
    got = _whole(both, pack([[document]], len(document)))
    assert torch.allclose(got, both.expected(document), atol=1e-4)
    # The test would see a difference.
    assert both.expected(document).std() > 0.1


def test_a_text_read_step_by_step(both: Both) -> None:
    document = both.document(TEXTS[1])
    batch, cache = pack([[document]], len(document)), Cache()
    steps = []
    for at in range(len(document)):
        step = _columns(batch, at)
        with torch.no_grad():
            steps.append(both.logits(both.ours.model.extend(step, cache)[0]))
    assert torch.allclose(torch.cat(steps), both.expected(document), atol=1e-4)


def _columns(batch: PackedBatch, at: int) -> PackedBatch:
    import dataclasses

    names = ("ids", "labels", "weight", "doc", "span", "attn_mode", "expert", "pos")
    return dataclasses.replace(
        batch, **{name: getattr(batch, name)[:, at : at + 1] for name in names}
    )


def test_texts_packed_in_one_row(both: Both) -> None:
    documents = [both.document(text) for text in TEXTS]
    batch = pack([documents], sum(map(len, documents)) + 7)
    got = _whole(both, batch)
    at = 0
    for document in documents:
        expected = both.expected(document)
        assert torch.allclose(got[at : at + len(document)], expected, atol=1e-4)
        at += len(document)


def test_by_both_experts(both: Both) -> None:
    if both.ours.bundle.model_config.experts == "moe":
        pytest.skip("learned experts are not doubled")
    out = both.folder / "mot"
    import_model(str(both.folder / "theirs"), str(out), experts="mot")
    doubled = Both(both.theirs, load(str(out), "cpu"), out)
    document = doubled.document(TEXTS[1])
    batch = pack([[document]], len(document))
    expected = doubled.expected(document)
    for expert in (0, 1, torch.arange(len(document)) % 2):
        batch.expert[:] = torch.as_tensor(expert, dtype=torch.uint8)
        assert torch.allclose(_whole(doubled, batch), expected, atol=1e-4)
