"""An answer to a conversation, handed out as it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from gristmill.errors import ConfigurationError, SampleError
from gristmill.model.checkpoints.model_bundle import ModelBundle
from gristmill.model.documents.chat import Chat, Message, with_pictures
from gristmill.model.documents.segments import Content, Segment
from gristmill.model.network.transformer import Transformer
from gristmill.model.sampling.decoding import DecodingSession, Sampling
from gristmill.model.sampling.samplers import text_blocks, text_steps
from gristmill.pipelines.sources.conversations import ROLES

OnText = Callable[[str], None]
"""Is handed pieces of a text, in order, as they become known."""


class AnswerWriter:
    """Answers by one model."""

    def __init__(self, model: Transformer, bundle: ModelBundle) -> None:
        self._model, self._bundle = model, bundle
        self._chat = Chat(bundle.vocabulary)

    @torch.no_grad()
    def answer(
        self,
        messages: Sequence[tuple[str, str]],
        contents: Sequence[Content],
        sampling: Sampling,
        on_text: OnText | None = None,
    ) -> str:
        """What the model says to turns of (role, text), in which `<image>` marks the pictures of
        `contents`; `on_text` is handed the same in pieces.

        Raises `ConfigurationError` for turns that cannot be answered.
        """
        sampling.check()
        segments = self._chat.prompt(_checked(messages, len(contents)))
        session = self._session(segments, contents, sampling)
        ids: list[int] = []
        told = ""
        for some in self._pieces(session):
            ids += some
            text = self._bundle.vocabulary.decode(ids).lstrip()
            # Of a letter that is not whole yet, or of spaces that may be the last, nothing is said.
            text = text.rstrip("\ufffd").rstrip()
            if on_text is not None and len(text) > len(told):
                on_text(text[len(told) :])
                told = text
        whole = self._bundle.vocabulary.decode(ids).strip()
        if on_text is not None and len(whole) > len(told):
            on_text(whole[len(told) :])
        return whole

    def _session(
        self, segments: Sequence[Segment], contents: Sequence[Content], sampling: Sampling
    ) -> DecodingSession:
        rng = np.random.default_rng(0)
        prompt = self._bundle.writer.write(segments, contents, rng, prompt=True)
        return DecodingSession(self._model, self._bundle, [prompt], sampling)

    def _pieces(self, session: DecodingSession) -> Iterator[list[int]]:
        """Ids one by one, or block by block."""
        if self._bundle.paradigm.text_objective == "masked":
            for (block,) in text_blocks(session):
                yield block
            return
        for step in text_steps(session):
            yield [number for number in step if number is not None]


def _checked(messages: Sequence[tuple[str, str]], pictures: int) -> list[Message]:
    unknown = [role for role, _ in messages if role not in ROLES]
    if unknown:
        raise ConfigurationError(f"a turn of {unknown[0]!r}; sides are {', '.join(ROLES)}")
    if not messages or messages[-1][0] == "assistant":
        raise ConfigurationError("there is nothing to answer: the last turn must be the user's")
    try:
        return with_pictures(messages, [(number,) for number in range(pictures)])
    except SampleError as error:
        raise ConfigurationError(
            f"{error}: there are {pictures}; mark each with <image>, or none, then they come first"
        ) from error
