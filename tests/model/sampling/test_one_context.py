"""What is trained is what is sampled: whatever begins next, a text or a picture, begins from the
same hidden state in a trained document and behind a prompt that gives what came before."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.checkpoints.model_bundle import ModelBundle
from gristmill.model.codecs.base import Codec
from gristmill.model.codecs.patches import KMeansCodec, RawPatches
from gristmill.model.documents.batch import CAUSAL, Document, pack
from gristmill.model.documents.document_writer import DocumentLayout
from gristmill.model.documents.paradigms import PARADIGMS
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import Content, ImageSegment, Segment, TextSegment
from gristmill.model.documents.tasks import (
    answering,
    continuing,
    describing,
    drawing,
    editing,
    interleaving,
    recounting,
)
from gristmill.model.documents.vocabulary import Vocabulary, train_text
from gristmill.model.network.configurations import for_paradigm
from gristmill.model.network.model_config import EXPERTS, ModelConfig
from gristmill.model.network.transformer import Transformer
from gristmill.model.sampling.decoding import DecodingSession, Sampling
from gristmill.model.sampling.samplers import IMAGE_SAMPLERS, TEXT_SAMPLERS

SAID = ["a red circle", "one, then another green", "make it green"]
TEXT = train_text(SAID * 3, 300)
# Two pictures lie, one stands: what follows one begins at another place than behind the others.
GRIDS = [PictureGrid((2, 3), (2, 2)), PictureGrid((3, 2), (2, 2)), PictureGrid((2, 3), (2, 2))]
CHANNELS = 12
CASES: dict[str, list[Segment]] = {
    "text after a picture": describing(SAID[0]),
    "text after pictures": describing(SAID[1], 3),
    "answers in turn": answering([(SAID[2], SAID[0]), (SAID[0], SAID[1])]),
    "picture after a text": drawing(SAID[0]),
    "picture after a picture": drawing(SAID[0], 3),
    "continue": continuing(SAID[0], 3),
    "edit": editing(SAID[2]),
    "interleaved": recounting(SAID, [1, 2, 3]),
    "interleaved, pictures first": recounting(SAID[:2], [0, 0, 1]),
    "told and described": interleaving(SAID[1]),
}


# Paradigms, and where the places of their pictures stand.
PLACED = [
    *((name, "grid") for name in PARADIGMS),
    *((name, "line") for name in ("ar", "masked", "discrete-diffusion", "janus")),
]


def _model(
    name: str, experts: str, positions: str = "grid", codebooks: int = 1
) -> tuple[Transformer, ModelBundle]:
    """Random weights, none of them zero."""
    paradigm = PARADIGMS[name]
    codec: Codec = KMeansCodec(side=6, patch=2, sizes=(8,) * codebooks)
    if not paradigm.codes:
        codec = RawPatches(side=6, patch=2)
    layout = DocumentLayout(
        patches=6, latents_per_query=2, latent_channels=CHANNELS, semantic_width=7, text_block=5,
        picture_positions=positions,
    )  # fmt: skip
    queries = layout.queries(6) if paradigm.image_objective == "query" else 0
    vocabulary = Vocabulary(TEXT, codec.vocabularies, queries)
    config = for_paradigm(
        ModelConfig(
            vocabulary=vocabulary.size, width=32, layers=2, heads=2, kv_heads=1, head_dim=16,
            feed_forward=48, experts=experts, moe_experts=4,
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


def _contents() -> list[Content]:
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


def _hidden(model: Transformer, document: Document) -> Tensor:
    return model.hidden(pack([[document]], len(document)))[0]


class _Recorded(DecodingSession):
    """A session that remembers what was read."""

    reads: list[tuple[Tensor, int, int, bool]]

    def read(self, ids: Tensor, pos: Tensor, **how: Any) -> Tensor:
        self.reads.append((pos[0], how["attn_mode"], how["expert"], how["commit"]))
        return super().read(ids, pos, **how)


def _session(
    model: Transformer, bundle: ModelBundle, prompt: Document, grid: tuple[int, int] | None = None
) -> _Recorded:
    session = _Recorded(model, bundle, [prompt], Sampling(steps=1, longest=2), grid)
    session.reads = []
    return session


@pytest.mark.parametrize("experts", EXPERTS)
@pytest.mark.parametrize(("name", "positions"), PLACED)
@torch.no_grad()
def test_the_context_of_training_is_that_of_sampling(
    name: str, positions: str, experts: str
) -> None:
    model, bundle = _model(name, experts, positions)
    writer, contents, rng = bundle.writer, _contents(), np.random.default_rng(3)
    for case, segments in CASES.items():
        whole = writer.write(segments, contents, rng)
        trained = _hidden(model, whole)
        # Experts are shared or not by position alone: where it matters is where kinds meet.
        if experts != "dense" and case not in ("continue", "edit", "interleaved"):
            continue
        for number, segment in enumerate(segments):
            if not segment.is_target:
                continue
            given = [dataclasses.replace(s, is_target=False) for s in segments[:number]]
            prompt = writer.write([*given, segment], contents, rng, prompt=True)
            opened = len(prompt) - writer.length([*given, TextSegment("")], GRIDS)
            alone = writer.length([segment], GRIDS) - 1
            at = writer.length(segments[: number + 1], GRIDS) - alone + opened
            session = _session(model, bundle, prompt, _grid(segment))
            where = f"{case}, segment {number}"
            # Where the next thing starts, and all that is read from there.
            assert torch.allclose(session.last[0], trained[at - 1], atol=1e-4), where
            rest = whole.after(at)
            if len(rest):
                read = model.extend(pack([[rest]], len(rest)), session.cache, commit=False)
                assert torch.allclose(read[0], trained[at:], atol=1e-4), where
            if experts == "mot":
                _check_first_read(session, segment, whole, at, where)


def _grid(segment: Segment) -> tuple[int, int] | None:
    return GRIDS[segment.number].image if isinstance(segment, ImageSegment) else None


def _check_first_read(
    session: _Recorded, segment: Segment, whole: Document, at: int, where: str
) -> None:
    """A sampler writes its positions as training did."""
    paradigm = session.bundle.paradigm
    if isinstance(segment, ImageSegment):
        IMAGE_SAMPLERS[paradigm.image_objective](session)
        sequential = paradigm.sequential
    else:
        TEXT_SAMPLERS[paradigm.text_objective](session)
        sequential = paradigm.text_objective == "next"
    if not session.reads:
        # A text that ended at once.
        return
    pos, attn_mode, expert, _ = session.reads[0]
    if sequential:
        pos = torch.cat([read[0] for read in session.reads])
        pos = pos[: min(len(pos), len(whole) - at)]
    here = slice(at, at + len(pos))
    assert (pos.numpy() == whole.pos[here]).all(), where
    assert (whole.attn_mode[here] == attn_mode).all(), where
    assert (whole.expert[here] == expert).all(), where


@pytest.mark.parametrize("codebooks", [1, 2])
def test_pictures_in_line_take_the_positions_of_text(codebooks: int) -> None:
    """A given picture, and a drawn one, after a text and before one: each position is one step."""
    _, bundle = _model("ar", "dense", "line", codebooks)
    contents = _contents()
    for content in contents:
        assert content.codes is not None
        content.codes = np.repeat(content.codes, codebooks, axis=2)
    for case in ("continue", "text after pictures", "interleaved"):
        document = bundle.writer.write(CASES[case], contents, np.random.default_rng(0))
        assert (document.pos == np.arange(len(document))[:, None]).all(), case


def test_what_is_no_single_line_is_refused() -> None:
    for name in ("flow", "flow-semantic", "query", "joint", "token-flow"):
        with pytest.raises(ConfigurationError, match="picture_positions=grid"):
            DocumentLayout(patches=6, picture_positions="line").check(PARADIGMS[name])
    with pytest.raises(ConfigurationError, match="picture_positions"):
        DocumentLayout(patches=6, picture_positions="circle").check(PARADIGMS["ar"])


@pytest.mark.parametrize("name", PARADIGMS)
def test_what_follows_sees_nothing_of_how_a_picture_was_learnt(name: str) -> None:
    """Other noise, masks and times change no context."""
    model, bundle = _model(name, "dense")
    segments = CASES["interleaved"]
    twice = [
        bundle.writer.write(segments, _contents(), np.random.default_rng(seed)) for seed in (1, 2)
    ]
    last = bundle.writer.length([segments[-1]], GRIDS) - 1
    at = len(twice[0]) - last + 2
    with torch.no_grad():
        one, other = (_hidden(model, document)[at] for document in twice)
    assert torch.allclose(one, other, atol=1e-5)
    drawn = [document.attn_mode[document.attn_mode != CAUSAL] for document in twice]
    assert (drawn[0] == drawn[1]).all()


def test_documents_are_read_on_from_any_place_between_spans() -> None:
    for name in ("joint", "flow-semantic", "janus"):
        model, bundle = _model(name, "mot")
        given: Sequence[Segment] = [
            ImageSegment(0), TextSegment(SAID[0]), ImageSegment(1), TextSegment(SAID[1]),
        ]  # fmt: skip
        parts = [
            bundle.writer.write(
                [*given[:count], TextSegment("")], _contents(), np.random.default_rng(0),
                prompt=True,
            )
            for count in range(5)
        ]  # fmt: skip
        with torch.no_grad():
            session = _session(model, bundle, parts[0])
            for part in parts[1:]:
                session.read_on([part])
                fresh = _session(model, bundle, part)
                assert torch.allclose(session.last, fresh.last, atol=1e-4), name
                assert torch.equal(session.time, fresh.time) and session.spans == fresh.spans
