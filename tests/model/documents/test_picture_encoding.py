"""What the step makes of pixels on its device is what was there when the loader knew the codes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from gristmill.model.codecs.autoencoders import FsqCodec, VaeCodec
from gristmill.model.codecs.base import Codec, balancing_weights
from gristmill.model.data.image_tokenizer import ImageTokenizer, encode_all
from gristmill.model.documents.batch import pack
from gristmill.model.documents.document_writer import DocumentLayout, DocumentWriter
from gristmill.model.documents.paradigms import PARADIGMS
from gristmill.model.documents.picture_encoding import encode_pictures
from gristmill.model.documents.segments import Content
from gristmill.model.documents.tasks import describing, drawing, editing, interleaving
from gristmill.model.documents.vocabulary import Vocabulary, train_text

TEXT = train_text(["a small red circle", "make it green"] * 3, 300)
TASKS = (drawing("a star"), describing("a star"), editing("make it green"), interleaving("a star"))
SIZES = ((24, 24), (16, 40), (50, 20))


def _codec(codes: bool) -> Codec:
    torch.manual_seed(0)
    made: Codec = FsqCodec(side=24, patch=4) if codes else VaeCodec(side=24, patch=4, latent=3)
    if codes:
        shares = torch.rand(sum(made.vocabularies), generator=torch.Generator().manual_seed(1))
        made.frequencies = shares / shares.sum()
    return made.eval()


@pytest.mark.parametrize("name", ["ar", "masked", "discrete-diffusion", "flow"])
def test_pictures_of_several_sizes_are_encoded_in_the_step(name: str) -> None:
    paradigm = PARADIGMS[name]
    codec = _codec(paradigm.codes)
    layout = DocumentLayout(patches=36, latent_channels=codec.channels, text_block=8)
    vocabulary = Vocabulary(TEXT, codec.vocabularies)
    weights = balancing_weights(codec, 0.5)
    writer = DocumentWriter(vocabulary, paradigm, layout, weights.numpy())
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (*size, 3), np.uint8) for size in SIZES]
    raw = ImageTokenizer(paradigm, codec, None, 36).tokenize(pictures)
    assert all(c.pixels is not None and c.codes is None and c.latents is None for c in raw)
    known = []
    for content, values in zip(
        raw, encode_all(codec, pictures, [c.grid for c in raw]), strict=True
    ):
        which = "codes" if paradigm.codes else "latents"
        known.append(Content(content.grid, **{which: values}))
    batches = []
    for contents in (raw, known):
        rows = []
        for number, task in enumerate(TASKS):
            pairs = (contents[:2], contents[1:], contents[::2], contents[2:])
            drawn = np.random.default_rng(number)
            rows.append([writer.write(task, [*pairs[number], *pairs[number]][:2], drawn)])
        batches.append(pack(rows, 256))
    late, early = batches
    assert late.raw and not early.raw
    late = encode_pictures(late, codec, vocabulary.code_starts, weights)
    assert not late.raw
    for field in dataclasses.fields(early):
        first, second = getattr(late, field.name), getattr(early, field.name)
        if isinstance(first, torch.Tensor):
            assert torch.allclose(first, second, atol=1e-5), field.name
