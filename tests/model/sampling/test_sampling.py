"""What a sampler computes step by step is what training computes at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from model_world import World

from gristmill.errors import ConfigurationError
from gristmill.model.documents.batch import NOISE, pack
from gristmill.model.documents.paradigms import PARADIGMS
from gristmill.model.documents.picture_grid import fit_grid
from gristmill.model.documents.segments import Content
from gristmill.model.documents.tasks import describing, drawing
from gristmill.model.network.blocks import Cache
from gristmill.model.network.transformer import Transformer
from gristmill.model.sampling.decoding import DecodingSession, Sampling
from gristmill.model.sampling.samplers import generate_image_ar, generate_image_flow
from gristmill.model.sampling.unified import Unified
from gristmill.model.training.training_setup import make_setup


def _model(world: World, folder: Path, paradigm: str, experts: str = "dense") -> Unified:
    setup = make_setup(world.config(folder, paradigm, experts=experts))
    torch.manual_seed(3)
    model = Transformer(setup.model_config).eval()
    if setup.model_config.flow_head == "linear":
        torch.nn.init.normal_(model.latent_out.weight, std=0.1)
    return Unified(model, setup)


def _content(model: Unified, seed: int) -> Content:
    rng = np.random.default_rng(seed)
    return model.bundle.image_tokenizer.tokenize([rng.integers(0, 255, (40, 40, 3), np.uint8)])[0]


@pytest.mark.parametrize("experts", ["dense", "mot", "moe"])
@torch.no_grad()
def test_cached_logits_are_teacher_forced_logits(
    world: World, tmp_path: Path, experts: str
) -> None:
    model = _model(world, tmp_path, "ar", experts)
    bundle, rng = model.bundle, np.random.default_rng(0)
    prompts = ["a small red circle", "a star"]
    contents = [_content(model, i) for i in range(2)]
    whole = [
        bundle.writer.write(drawing(text), [content], rng)
        for text, content in zip(prompts, contents, strict=True)
    ]
    hidden, _ = model.model.hidden(pack([[document] for document in whole], 64))
    forced = model.model.logits(hidden).view(2, 64, -1)
    opened = [
        bundle.writer.write(drawing(text), [Content(model.grid())], rng, prompt=True)
        for text in prompts
    ]
    session = DecodingSession(model.model, bundle, opened, Sampling())
    assert torch.allclose(
        model.model.logits(session.last),
        torch.stack([forced[i, len(opened[i]) - 1] for i in range(2)]),
        atol=1e-4,
    )
    pos = session.picture_pos()
    for place in range(pos.shape[1]):
        ids = torch.tensor([[d.ids[len(o) + place]] for d, o in zip(whole, opened, strict=True)])
        out = session.read(
            ids, pos[:, place : place + 1], attn_mode=0, expert=1, span=session.spans, commit=True
        )
        expected = torch.stack([forced[i, len(opened[i]) + place] for i in range(2)])
        assert torch.allclose(model.model.logits(out[:, 0]), expected, atol=1e-4), place


@pytest.mark.parametrize("paradigm", ["flow", "flow-semantic", "joint"])
@torch.no_grad()
def test_cached_velocities_are_those_of_training(
    world: World, tmp_path: Path, paradigm: str
) -> None:
    model = _model(world, tmp_path, paradigm, "mot")
    bundle = model.bundle
    document = bundle.writer.write(
        drawing("a small red circle"), [_content(model, 5)], np.random.default_rng(1)
    )
    batch = pack([[document]], len(document))
    hidden, _ = model.model.hidden(batch)
    expected = model.model.velocity(batch, hidden)
    opened = bundle.writer.write(
        drawing("a small red circle"),
        [Content(model.grid())],
        np.random.default_rng(1),
        prompt=True,
    )
    session = DecodingSession(model.model, bundle, [opened], Sampling())
    noisy = model.model.noisy(batch)[None]
    for _ in range(2):
        # Not committed, so a second pass sees the same.
        out = session.read(
            torch.full((1, len(noisy[0])), -1), session.picture_pos(), attn_mode=NOISE, expert=1,
            span=session.spans, commit=False, latents=(noisy, float(batch.latent_t[0])),
        )  # fmt: skip
        assert torch.allclose(model.model.latent_out(out)[0], expected, atol=1e-4)


@torch.no_grad()
def test_prompts_of_other_rows_do_not_matter(world: World, tmp_path: Path) -> None:
    model = _model(world, tmp_path, "janus")
    pictures = [np.full((40, 40, 3), value, np.uint8) for value in (10, 120, 240)]
    questions = ["how many?", "what colour is the very large star?", "is there?"]
    few = Sampling(temperature=0, longest=6)
    together = model.ask(pictures, questions, few)
    assert together == [
        model.ask([p], [q], few)[0] for p, q in zip(pictures, questions, strict=True)
    ]


@torch.no_grad()
def test_a_cache_grows_without_changing_what_it_holds(world: World, tmp_path: Path) -> None:
    model = _model(world, tmp_path, "ar")
    document = model.bundle.writer.write(
        describing("a small red circle"), [_content(model, 1)], np.random.default_rng(0)
    )
    batch = pack([[document]], len(document))
    expected, _ = model.model.hidden(batch)
    assert torch.allclose(model.model.extend(batch, Cache())[0], expected, atol=1e-5)


@torch.no_grad()
def test_guidance_moves_away_from_what_is_drawn_without_a_prompt(
    world: World, tmp_path: Path
) -> None:
    model = _model(world, tmp_path, "flow")
    plain = model.generate("a star", Sampling(steps=2, seed=4))[0]
    assert np.array_equal(plain, model.generate("a star", Sampling(steps=2, seed=4))[0])
    guided = model.generate("a star", Sampling(steps=2, seed=4, guidance=4.0))[0]
    assert not np.array_equal(plain, guided)
    # Outside its interval guidance does nothing.
    idle = Sampling(steps=2, seed=4, guidance=4.0, guidance_from=-1.0)
    assert np.array_equal(plain, model.generate("a star", idle)[0])


@torch.no_grad()
def test_flows_end_at_the_data_when_the_velocity_is_exact(world: World, tmp_path: Path) -> None:
    model = _model(world, tmp_path, "flow")
    opened = model.bundle.writer.write(
        drawing(""), [Content(model.grid())], np.random.default_rng(0), prompt=True
    )
    target = torch.randn(1, 16, 8)
    noise = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(0))
    for solver in ("euler", "heun"):
        session = DecodingSession(
            model.model, model.bundle, [opened], Sampling(steps=3, solver=solver)
        )
        session.model = _Exact(noise - target)  # type: ignore[assignment]
        assert torch.allclose(generate_image_flow(session), target, atol=1e-5)


class _Exact:
    """A model whose velocity is that of the straight path."""

    def __init__(self, velocity: torch.Tensor) -> None:
        self.velocity = velocity

    def extend(self, batch: object, cache: object, *, commit: bool) -> torch.Tensor:
        return self.velocity

    def latent_out(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


@torch.no_grad()
def test_drawn_codes_keep_to_their_codebook(world: World, tmp_path: Path) -> None:
    setup = make_setup(
        world.config(
            tmp_path, codec=world.two_books,
            data=(world.config(tmp_path).data[0],),
        )
    )  # fmt: skip
    model = Transformer(setup.model_config).eval()
    grid = Content(setup.image_tokenizer.grid(None))
    opened = setup.writer.write(drawing("x"), [grid], np.random.default_rng(0), prompt=True)
    codes = generate_image_ar(DecodingSession(model, setup, [opened, opened], Sampling()))
    assert codes.shape == (2, 32) and int(codes.min()) >= 0 and int(codes.max()) < 16


@pytest.mark.parametrize("paradigm", PARADIGMS)
@torch.no_grad()
def test_one_model_draws_at_several_sizes(world: World, tmp_path: Path, paradigm: str) -> None:
    model = _model(world, tmp_path, paradigm)
    patch = model.bundle.codec.patch
    few = Sampling(steps=2, seed=1, guidance=2.0)
    for size in ((2 * patch, 4 * patch), (4 * patch, 2 * patch), (3 * patch, 3 * patch)):
        assert model.generate("a star", few, size)[0].shape == (*size, 3)
    # Rounded to whole patches.
    assert model.generate("a star", few, (2 * patch + 1, 4 * patch))[0].shape[0] == 2 * patch
    with pytest.raises(ConfigurationError, match=r"at most 16 .*--patches"):
        model.generate("a star", few, (40 * patch, 40 * patch))


@torch.no_grad()
def test_pictures_of_several_ratios_are_asked_and_edited_at_their_own(
    world: World, tmp_path: Path
) -> None:
    model = _model(world, tmp_path, "flow-semantic")
    shapes = [(40, 40), (40, 80), (120, 30), (31, 33), (90, 64)]
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (*shape, 3), np.uint8) for shape in shapes]
    few = Sampling(steps=2)
    edited = model.edit(pictures, ["make it green"] * len(pictures), few)
    patch = model.bundle.codec.patch
    for picture, shape in zip(edited, shapes, strict=True):
        rows, columns = fit_grid(*shape, patch, model.bundle.layout.patches)
        assert picture.shape == (rows * patch, columns * patch, 3)
    alone = model.edit(pictures[2:3], ["make it green"], few)[0]
    assert alone.shape == edited[2].shape
    said = model.describe(pictures, Sampling(temperature=0, longest=4))
    assert said == [model.describe([p], Sampling(temperature=0, longest=4))[0] for p in pictures]
