"""Answers begin from the context that they had in training, and are handed out as they come."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from chat_templates import family

from gristmill.errors import ConfigurationError
from gristmill.model.checkpoints.model_bundle import ModelBundle
from gristmill.model.codecs.base import Codec
from gristmill.model.codecs.patches import KMeansCodec, RawPatches
from gristmill.model.documents.batch import pack
from gristmill.model.documents.chat import Chat, with_pictures
from gristmill.model.documents.document_writer import DocumentLayout
from gristmill.model.documents.paradigms import PARADIGMS
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import Content, TextSegment
from gristmill.model.documents.vocabulary import Vocabulary, train_text
from gristmill.model.network.configurations import for_paradigm
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.network.transformer import Transformer
from gristmill.model.sampling.chat_answer import AnswerWriter
from gristmill.model.sampling.decoding import DecodingSession, Sampling

CHANNELS = 12
GRIDS = [PictureGrid((2, 3), (2, 2)), PictureGrid((3, 2), (2, 2))]
TURNS = [
    ("system", "Be brief."),
    ("user", "<image>\nWhat colour is it?"),
    ("assistant", "It is red, as you see."),
    ("user", "And <image>?"),
    ("assistant", "the other one"),
]


def model_of(name: str, template: str = "SmolLM2") -> tuple[Transformer, ModelBundle]:
    """Random weights, none of them zero."""
    paradigm = PARADIGMS[name]
    codec: Codec = KMeansCodec(side=6, patch=2, sizes=(8,))
    if not paradigm.codes:
        codec = RawPatches(side=6, patch=2)
    layout = DocumentLayout(
        patches=6, latents_per_query=2, latent_channels=CHANNELS, semantic_width=7, text_block=5
    )
    queries = layout.queries(6) if paradigm.image_objective == "query" else 0
    text, pretrained = train_text([text for _, text in TURNS] * 2, 300), None
    if template:
        theirs = family(template)[0]
        text, pretrained = theirs.tokenizer_file, theirs.pretrained
    vocabulary = Vocabulary(text, codec.vocabularies, queries, pretrained)
    config = for_paradigm(
        ModelConfig(
            vocabulary=vocabulary.size, width=32, layers=2, heads=2, kv_heads=1, head_dim=16,
            feed_forward=48,
        ),
        paradigm, latent_channels=CHANNELS, semantic_width=7,
    )  # fmt: skip
    torch.manual_seed(1)
    model = Transformer(config).eval()
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    nothing = cast(Any, None)
    bundle = ModelBundle(config, vocabulary, paradigm, layout, codec, nothing, nothing)
    vars(bundle)["code_weights"] = torch.ones(sum(codec.vocabularies))
    return model, bundle


def contents() -> list[Content]:
    rng = np.random.default_rng(5)
    return [
        Content(
            grid,
            codes=rng.integers(0, 8, (*grid.image, 1)),
            latents=rng.standard_normal((*grid.image, CHANNELS), np.float32),
            semantic=rng.standard_normal((*grid.semantic, 7), np.float32),
        )
        for grid in GRIDS
    ]


@pytest.mark.parametrize("template", ["SmolLM2", ""])
@pytest.mark.parametrize("name", PARADIGMS)
@torch.no_grad()
def test_an_answer_begins_as_it_was_learnt(name: str, template: str) -> None:
    model, bundle = model_of(name, template)
    chat, writer, rng = Chat(bundle.vocabulary), bundle.writer, np.random.default_rng(3)
    messages = with_pictures(TURNS, [(0,), (1,)])
    found = chat.document(messages, lambda _: True, rng)
    assert found is not None
    segments = found[0]
    document = writer.write(segments, contents(), rng)
    trained = model.hidden(pack([[document]], len(document)))[0]
    answers = [i for i, s in enumerate(segments) if isinstance(s, TextSegment) and s.is_target]
    turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
    for place, turn in zip(answers, turns, strict=True):
        prompt = writer.write(chat.prompt(messages[:turn]), contents(), rng, prompt=True)
        session = DecodingSession(model, bundle, [prompt], Sampling())
        opens = cast(TextSegment, segments[place]).special_token is not None
        at = writer.length([*segments[:place], TextSegment("")], GRIDS) + opens
        assert torch.allclose(session.last[0], trained[at - 1], atol=1e-4), place


@pytest.mark.parametrize("name", ["ar", "discrete-diffusion"])
def test_an_answer_is_handed_out_in_pieces(name: str) -> None:
    writer = AnswerWriter(*model_of(name))
    pieces: list[str] = []
    sampling = Sampling(temperature=1.0, longest=30, seed=4)
    answer = writer.answer(TURNS[:-1], contents(), sampling, pieces.append)
    assert answer and answer == answer.strip() and "".join(pieces) == answer
    assert len(pieces) > 1 or name != "ar"
    assert writer.answer(TURNS[:-1], contents(), sampling) == answer


@pytest.mark.parametrize(
    ("turns", "pictures", "said"),
    [
        ([], 0, "nothing to answer"),
        (TURNS, 2, "nothing to answer"),
        ([("narrator", "a")], 0, "a turn of 'narrator'; sides are system, user, assistant, tool"),
        ([("user", "<image>")], 0, "more picture marks than pictures: there are 0"),
        ([("user", "<image>")], 2, "fewer picture marks than pictures: there are 2"),
    ],
)
def test_what_cannot_be_answered_is_said(turns: Any, pictures: int, said: str) -> None:
    writer = AnswerWriter(*model_of("ar"))
    with pytest.raises(ConfigurationError, match=said):
        writer.answer(turns, contents()[:pictures], Sampling())
