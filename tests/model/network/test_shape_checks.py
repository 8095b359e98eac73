"""What the annotations of the model's borders say of shapes and types is held to in tests."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from gristmill.model.codecs.patches import RawPatches
from gristmill.model.documents.batch import PackedBatch, pack
from gristmill.model.documents.document_writer import DocumentLayout, DocumentWriter
from gristmill.model.documents.paradigms import PARADIGMS
from gristmill.model.documents.segments import TextSegment
from gristmill.model.documents.vocabulary import Vocabulary, train_text
from gristmill.model.network.configurations import nano
from gristmill.model.network.transformer import Transformer


def _batch() -> tuple[Vocabulary, PackedBatch]:
    vocabulary = Vocabulary(train_text(["a red star"] * 3, 300), (16,))
    writer = DocumentWriter(vocabulary, PARADIGMS["ar"], DocumentLayout(patches=4))
    document = writer.write([TextSegment("a red star")], [], np.random.default_rng(0))
    return vocabulary, pack([[document]], 24)


def test_a_batch_of_fields_that_do_not_belong_together_is_refused() -> None:
    _, batch = _batch()
    for wrong in (
        {"labels": batch.labels[:, :-1]},
        {"ids": batch.ids.int()},
        {"latent_t": torch.zeros(3)},
    ):
        with pytest.raises(TypeCheckError):
            dataclasses.replace(batch, **wrong)


def test_the_transformer_and_codecs_are_held_to_their_shapes() -> None:
    vocabulary, batch = _batch()
    model = Transformer(nano(vocabulary.size))
    assert model(batch).text.shape == ()
    with pytest.raises(TypeCheckError):
        model(batch.ids)
    with pytest.raises(TypeCheckError):
        model.logits(batch.ids)
    codec = RawPatches(side=8, patch=4)
    assert codec.encode(torch.zeros(1, 3, 8, 8)).shape == (1, 2, 2, 48)
    # As files have pictures, not as codecs take them.
    with pytest.raises(TypeCheckError):
        codec.encode(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
