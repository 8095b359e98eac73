"""A trained model that draws, describes, answers and edits."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError, SampleError
from gristmill.model.checkpoints.model_bundle import ModelBundle
from gristmill.model.checkpoints.model_folder import load_weights, open_bundle, read_model_facts
from gristmill.model.data.image_tokenizer import encode_all
from gristmill.model.data.planner import Planner
from gristmill.model.documents.batch import Document
from gristmill.model.documents.picture_grid import PictureGrid
from gristmill.model.documents.segments import Content, Segment
from gristmill.model.documents.tasks import (
    answering,
    continuing,
    describing,
    drawing,
    editing,
    recounting,
)
from gristmill.model.documents.vocabulary import SIDES
from gristmill.model.network.transformer import Transformer
from gristmill.model.sampling.chat_answer import AnswerWriter, OnText
from gristmill.model.sampling.decoding import DecodingSession, Sampling, to_pictures
from gristmill.model.sampling.growing_documents import Asked, GrowingDocuments
from gristmill.model.sampling.samplers import TEXT_SAMPLERS
from gristmill.pipelines.decode import Image

_ROWS = 64


class Unified:
    """Weights, and all that is needed to read and write with them."""

    def __init__(self, model: Transformer, bundle: ModelBundle) -> None:
        self.model, self.bundle = model, bundle

    def generate(
        self,
        prompts: str | Sequence[str],
        sampling: Sampling | None = None,
        size: tuple[int, int] | None = None,
    ) -> list[Image]:
        """A picture for each prompt, [height, width, 3], of about that size (height, width), or a
        square one. Raises `ConfigurationError` for a size that the model cannot draw."""
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return [picture for (picture,) in self.generate_clips(texts, 1, sampling, size)]

    def generate_clips(
        self,
        prompts: Sequence[str],
        frames: int,
        sampling: Sampling | None = None,
        size: tuple[int, int] | None = None,
    ) -> list[list[Image]]:
        """So many frames of a clip for each prompt, each drawn with those before it in sight."""
        if frames < 1:
            raise ConfigurationError(f"{frames} frames; give at least one")
        if frames == 1 and sampling is not None and sampling.picture_guidance != 1:
            raise ConfigurationError(
                f"picture_guidance {sampling.picture_guidance}: a picture of a prompt alone has "
                "none before it to be closer to; leave it at 1"
            )
        asked: list[Asked] = [(drawing(text, 0), []) for text in prompts]
        return self._draw(asked, sampling, self.grid(size), frames)

    def grid(self, size: tuple[int, int] | None = None) -> PictureGrid:
        """Rows and columns of a picture to be drawn, (height, width) in pixels rounded to whole
        patches; without a size the square that most training pictures fit."""
        tokenizer = self.bundle.image_tokenizer
        if size is None:
            return tokenizer.grid(None)
        rows, columns = (max(1, round(side / self.bundle.codec.patch)) for side in size)
        if rows * columns > self.bundle.layout.patches or max(rows, columns) > SIDES:
            raise ConfigurationError(
                f"{size[1]}x{size[0]} px are {rows * columns:,} places, the model was trained with "
                f"at most {self.bundle.layout.patches:,} of {self.bundle.codec.patch} px; give a "
                "smaller size, or train with more (--patches)"
            )
        patch = self.bundle.codec.patch
        return dataclasses.replace(
            tokenizer.grid((rows * patch, columns * patch)), image=(rows, columns)
        )

    def edit(
        self,
        pictures: Sequence[Image],
        instructions: Sequence[str],
        sampling: Sampling | None = None,
    ) -> list[Image]:
        """Each picture as its instruction wants it."""
        seen = self.bundle.image_tokenizer.tokenize(pictures)
        asked: list[Asked] = [
            (editing(text)[:-1], [content])
            for text, content in zip(instructions, seen, strict=True)
        ]
        return [picture for (picture,) in self._draw(asked, sampling)]

    def extend_clips(
        self,
        firsts: Sequence[Image],
        captions: Sequence[str],
        frames: int = 1,
        sampling: Sampling | None = None,
    ) -> list[list[Image]]:
        """The next frames of each clip, from its first and its caption."""
        seen = self.bundle.image_tokenizer.tokenize(firsts)
        asked: list[Asked] = [
            (continuing(text, 1), [content]) for text, content in zip(captions, seen, strict=True)
        ]
        return self._draw(asked, sampling, frames=frames)

    def illustrate(
        self,
        stories: Sequence[tuple[Sequence[str], Sequence[Image], Sequence[int]]],
        sampling: Sampling | None = None,
    ) -> list[Image]:
        """The next picture of each story: its texts, the pictures so far, and before which text
        each of these stands."""
        asked = [self._told(*story) for story in stories]
        return [picture for (picture,) in self._draw(asked, sampling)]

    def continue_stories(
        self,
        stories: Sequence[tuple[Sequence[str], Sequence[Image], Sequence[int]]],
        pictures: int = 1,
        sampling: Sampling | None = None,
    ) -> list[list[str | Image]]:
        """What comes next in each story: text and pictures in turn, until the story ends, or the
        text behind so many pictures does."""
        sampling = sampling or Sampling()
        sampling.check()
        told: list[list[str | Image]] = [[] for _ in stories]
        for chosen, growing in self._growing([self._told(*s) for s in stories], sampling, None):
            for turn in range(2 * pictures + 1):
                new = growing.draw() if turn % 2 else growing.write()
                for place, part in zip(chosen, new, strict=True):
                    told[place] += [] if part is None else [part]
                if not any(growing.live):
                    break
        return told

    def _told(
        self, texts: Sequence[str], pictures: Sequence[Image], places: Sequence[int]
    ) -> Asked:
        """A story so far, as it is given."""
        seen = self.bundle.image_tokenizer.tokenize(pictures) if pictures else []
        # A picture comes next, so that nothing has ended.
        segments = recounting(texts, [*places, len(texts)])[:-1]
        return [replace(segment, is_target=False) for segment in segments], seen

    def describe(self, pictures: Sequence[Image], sampling: Sampling | None = None) -> list[str]:
        """A caption for each picture of any size."""
        return self.describe_seen(self.bundle.image_tokenizer.tokenize(pictures), sampling)

    def describe_seen(self, seen: Sequence[Content], sampling: Sampling | None = None) -> list[str]:
        """The same, of what the model has of each picture."""
        return self._write([(describing(""), [content]) for content in seen], sampling)

    def ask(
        self,
        pictures: Sequence[Image],
        questions: Sequence[str],
        sampling: Sampling | None = None,
    ) -> list[str]:
        """An answer to each question about its picture."""
        seen = self.bundle.image_tokenizer.tokenize(pictures)
        asked = [
            (answering([(question, "")]), [content])
            for question, content in zip(questions, seen, strict=True)
        ]
        return self._write(asked, sampling)

    def chat(
        self,
        messages: Sequence[tuple[str, str]],
        pictures: Sequence[Image] = (),
        sampling: Sampling | None = None,
        on_text: OnText | None = None,
    ) -> str:
        """The answer to turns of (role, text), which `on_text` is handed in pieces as well.

        Each `<image>` in a text stands for the next of the pictures; pictures without marks come
        before what is asked first. Raises `ConfigurationError` for turns that cannot be answered.
        """
        seen = self.bundle.image_tokenizer.tokenize(pictures) if pictures else []
        writer = AnswerWriter(self.model, self.bundle)
        return writer.answer(messages, seen, sampling or Sampling(temperature=0), on_text)

    def _prompt(self, segments: Sequence[Segment], contents: Sequence[Content]) -> Document:
        rng = np.random.default_rng(0)
        return self.bundle.writer.write(segments, contents, rng, prompt=True)

    def _draw(
        self,
        asked: Sequence[Asked],
        sampling: Sampling | None,
        grid: PictureGrid | None = None,
        frames: int = 1,
    ) -> list[list[Image]]:
        """So many pictures more of each; without a grid each as large as its last."""
        sampling = sampling or Sampling()
        sampling.check()
        drawn: list[list[Image]] = [[] for _ in asked]
        for chosen, growing in self._growing(asked, sampling, grid):
            for _ in range(frames):
                for place, picture in zip(chosen, growing.draw(), strict=True):
                    drawn[place] += [] if picture is None else [picture]
        return drawn

    def _growing(
        self, asked: Sequence[Asked], sampling: Sampling, grid: PictureGrid | None
    ) -> Iterator[tuple[Sequence[int], GrowingDocuments]]:
        """Those that draw on one grid, by number, and as documents."""
        grids = [grid or (contents[-1].grid if contents else self.grid()) for _, contents in asked]
        for number, chosen in enumerate(_alike(grids)):
            part = [asked[place] for place in chosen]
            here = replace(sampling, seed=sampling.seed * 100_003 + number)
            yield chosen, GrowingDocuments(self.model, self.bundle, part, here, grids[chosen[0]])

    @torch.no_grad()
    def _write(
        self,
        asked: Sequence[Asked],
        sampling: Sampling | None,
    ) -> list[str]:
        sampling = sampling or Sampling(temperature=0)
        sampling.check()
        texts: list[str] = []
        for part in _parts(asked):
            prompts = [self._prompt(segments, contents) for segments, contents in part]
            session = DecodingSession(self.model, self.bundle, prompts, sampling)
            for ids in TEXT_SAMPLERS[self.bundle.paradigm.text_objective](session):
                texts.append(self.bundle.vocabulary.decode(ids).strip())
        return texts


def _alike(grids: Sequence[PictureGrid]) -> Iterator[Sequence[int]]:
    """Numbers of those that are alike, some rows at a time."""
    alike: dict[PictureGrid, list[int]] = {}
    for number, grid in enumerate(grids):
        alike.setdefault(grid, []).append(number)
    for numbers in alike.values():
        for start in range(0, len(numbers), _ROWS):
            yield numbers[start : start + _ROWS]


def _parts(asked: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
    for start in range(0, len(asked), _ROWS):
        yield asked[start : start + _ROWS]


def load(folder: str, device: str = "") -> Unified:
    """The model that a training or an import left in a folder.

    Raises `TrainingError` for a folder without one, or whose files do not belong together.
    """
    bundle = open_bundle(folder, read_model_facts(folder))
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Unified(load_weights(folder, bundle.model_config, where).eval(), bundle)


def sample_sheet(model: Unified, planner: Planner, count: int = 8) -> Image | None:
    """Pictures drawn for the first captions of the data, above pictures and their captions; None
    if no picture of the first shard can be read."""
    from gristmill.model.data.dataloader import PackedRowBuilder, picture_to_read
    from gristmill.model.sampling.contact_sheet import contact_sheet

    table = planner.samples[0].table(0)
    # Pictures as the model has them, which may be all that the shards hold.
    builder = PackedRowBuilder(planner.samples, planner.writer, model.bundle.image_tokenizer)
    captions: list[str] = []
    contents: list[Content] = []
    for row in range(len(table)):
        if planner.left_out(0, 0, row):
            continue
        grid = planner.grid(0, 0, row, 0)
        with contextlib.suppress(SampleError):
            contents.append(builder.content(picture_to_read(planner, 0, 0, row, 0), grid))
            captions.append(table["caption"][row].as_py() or "")
        if len(contents) == count:
            break
    if not contents:
        return None
    pictures = [_decoded(model.bundle, content) for content in contents]
    drawn = model.generate(captions)
    said = model.describe_seen(contents)
    return contact_sheet([*zip(drawn, captions, strict=True), *zip(pictures, said, strict=True)])


def _decoded(bundle: ModelBundle, content: Content) -> Image:
    """A picture as its codes or latents have it."""
    values: NDArray[np.generic] | None
    values = content.codes if bundle.codec.discrete else content.latents
    if values is None:
        assert content.pixels is not None
        (values,) = encode_all(bundle.codec, [content.pixels], [content.grid])
    picture: Image = to_pictures(bundle, torch.from_numpy(values)[None], content.grid.image)[0]
    return picture


def require_pictures(paths: Sequence[str]) -> list[Image]:
    """Decoded files; raises `ConfigurationError` naming the one that is no picture."""
    from gristmill.model.data.picture_files import decode_upright

    pictures = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                pictures.append(decode_upright(file.read()))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path} is not a picture: {error}") from error
    return pictures
