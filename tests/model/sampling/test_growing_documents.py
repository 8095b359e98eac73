"""Texts and pictures in turn: what was drawn is seen by what follows as if it had been given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_world import World

from gristmill.errors import ConfigurationError
from gristmill.model.documents.batch import Document
from gristmill.model.documents.paradigms import PARADIGMS
from gristmill.model.documents.segments import Segment, TextSegment
from gristmill.model.documents.vocabulary import DRAW, IMAGE
from gristmill.model.network.transformer import Transformer
from gristmill.model.sampling import growing_documents
from gristmill.model.sampling.decoding import DecodingSession, Sampling
from gristmill.model.sampling.growing_documents import GrowingDocuments
from gristmill.model.sampling.unified import Unified
from gristmill.model.training.training_setup import make_setup


def _model(world: World, folder: Path, paradigm: str, experts: str = "dense") -> Unified:
    setup = make_setup(world.config(folder, paradigm, experts=experts, text_block=4))
    torch.manual_seed(3)
    model = Transformer(setup.model_config).eval()
    for weight in model.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.2)
    return Unified(model, setup)


class _Checked(DecodingSession):
    """A session that is, after whatever it read, where a new one is that reads all at once."""

    checked = 0

    def read_on(self, prompts: Sequence[Document]) -> None:
        super().read_on(prompts)
        if type(self).checked:
            fresh = DecodingSession(
                self.model, self.bundle, prompts, self.sampling, self.grid, self.sets
            )
            assert torch.allclose(self.last, fresh.last, atol=1e-4)
            assert torch.equal(self.time, fresh.time) and self.spans == fresh.spans
        type(self).checked += 1


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> type[_Checked]:
    monkeypatch.setattr(growing_documents, "DecodingSession", _Checked)
    monkeypatch.setattr(_Checked, "checked", 0)
    return _Checked


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of an untrained model hardly ever open a picture; these do, all but the last row's."""

    def opened(sampler: Callable[..., list[list[int]]]) -> Callable[..., list[list[int]]]:
        def write(session: DecodingSession, *, opens: bool) -> list[list[int]]:
            assert opens
            rows = [[i for i in row if i != IMAGE] for row in sampler(session, opens=opens)]
            return [[*row, IMAGE] for row in rows[:-1]] + rows[-1:]

        return write

    samplers = growing_documents.TEXT_SAMPLERS
    for name, sampler in list(samplers.items()):
        monkeypatch.setitem(samplers, name, opened(sampler))


@pytest.mark.parametrize("paradigm", PARADIGMS)
@torch.no_grad()
def test_what_grew_is_what_a_prompt_of_all_of_it_is(
    world: World, tmp_path: Path, checked: type[_Checked], opening: None, paradigm: str
) -> None:
    model = _model(world, tmp_path, paradigm, "mot")
    few = Sampling(steps=2, longest=3, guidance=2.0, picture_guidance=1.5, seed=2)
    given: list[Segment] = [TextSegment("a star", special_token=DRAW)]
    shorter: list[Segment] = [TextSegment("a", special_token=DRAW)]
    growing = GrowingDocuments(
        model.model, model.bundle, [(given, []), (shorter, []), (given, [])], few, model.grid()
    )
    frames = [growing.draw(), growing.draw()]
    said = growing.write()
    last = growing.draw()
    assert all(frame is not None for pair in frames for frame in pair)
    assert all(isinstance(text, str) for text in said)
    # The text of the last row opened no picture.
    assert [picture is not None for picture in last] == [True, True, False]
    assert growing.write()[2] is None and checked.checked == 5


@torch.no_grad()
def test_frames_are_drawn_with_those_before_in_sight(world: World, tmp_path: Path) -> None:
    model = _model(world, tmp_path, "flow-semantic")
    few = Sampling(steps=2, seed=4)
    clips = model.generate_clips(["a star", "a small red circle"], 3, few)
    assert [len(clip) for clip in clips] == [3, 3]
    first = np.full((24, 24, 3), 90, np.uint8)
    (more,) = model.extend_clips([first], ["a star moves"], 2, few)
    (other,) = model.extend_clips([255 - first], ["a star moves"], 2, few)
    assert len(more) == 2 and not np.array_equal(more[1], other[1])


@torch.no_grad()
def test_stories_go_on_in_turn(world: World, tmp_path: Path, opening: None) -> None:
    for paradigm in ("ar", "discrete-diffusion"):
        model = _model(world, tmp_path / paradigm, paradigm)
        told = model.continue_stories(
            [(["once"], [], []), (["a", "b"], [np.zeros((24, 24, 3), np.uint8)], [1])], 1,
            Sampling(longest=3, steps=2),
        )  # fmt: skip
        kinds: list[list[Any]] = [[type(part) for part in story] for story in told]
        assert kinds == [[str, np.ndarray, str], [str]]


@torch.no_grad()
def test_each_guidance_has_its_own_scale(world: World, tmp_path: Path) -> None:
    model = _model(world, tmp_path, "flow")
    picture = np.full((24, 24, 3), 60, np.uint8)

    def edited(**guidance: float) -> np.ndarray[Any, Any]:
        sampling = Sampling(steps=2, seed=1, **guidance)  # type: ignore[arg-type]
        return model.edit([picture], ["make it green"], sampling)[0]

    drawn = [edited(), edited(guidance=3.0), edited(picture_guidance=3.0)]
    assert not any(np.array_equal(drawn[i], drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    # Outside its interval none of them does anything.
    idle = edited(guidance=3.0, picture_guidance=3.0, guidance_from=-1.0)
    assert np.array_equal(drawn[0], idle)
    with pytest.raises(ConfigurationError, match=r"picture_guidance 2\.0: .* leave it at 1"):
        model.generate("a star", Sampling(picture_guidance=2.0))
    with pytest.raises(ConfigurationError, match="picture_guidance"):
        edited(picture_guidance=float("nan"))


def test_guidance_is_that_of_instruct_pix2pix(world: World, tmp_path: Path) -> None:
    model = _model(world, tmp_path, "ar")
    prompt = model.bundle.writer.write([TextSegment("a")], [], np.random.default_rng(0))
    given, unsaid, unseen = torch.tensor([[3.0], [2.0], [0.5]]).unbind(0)
    for sampling, sets, expected in (
        (Sampling(), 1, given),
        (Sampling(guidance=4.0), 2, unsaid + 4 * (given - unsaid)),
        (
            Sampling(guidance=4.0, picture_guidance=2.0), 3,
            unseen + 2 * (unsaid - unseen) + 4 * (given - unsaid),
        ),
        # With both at 1 the sets cancel out.
        (Sampling(), 3, given),
    ):  # fmt: skip
        with torch.no_grad():
            session = DecodingSession(
                model.model, model.bundle, [prompt] * sets, sampling, sets=sets
            )
        assert torch.allclose(
            session.guided(torch.stack([given, unsaid, unseen][:sets])), expected[None]
        )
