"""What is written down of samples, streams, checkpoints and models: the keys, and what they hold.

Checkpoints and shards of others have these keys; they stay what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray


class MessageFacts(TypedDict):
    """A turn of a conversation."""

    # system, user, assistant or tool.
    role: str | None
    text: str | None


class SampleColumns(TypedDict, total=False):
    """One sample of a shard set, as its metadata says; a column that is not there has no key."""

    uid: str
    caption: str | None
    question: str | None
    answer: str | None
    instruction: str | None
    # The picture before an edit.
    source_uid: str | None
    # Turns of a conversation; `<image>` in a text marks a picture of the sample.
    messages: Sequence[MessageFacts] | None
    # Of a document: texts, and before which of them each picture stands.
    texts: Sequence[str]
    image_places: Sequence[int]
    # Of a sample of somebody else's that has not just one.
    picture_count: int | None
    # In pixels: of the picture or the clip, and of each picture of a document or an edit.
    height: int | None
    width: int | None
    image_heights: Sequence[int] | None
    image_widths: Sequence[int] | None
    # What each picture of a document was before.
    image_uids: Sequence[str] | None
    # Frames of a clip, and those of which tokens or pictures are stored.
    frames: int | None
    frame_index: NDArray[np.int64] | None
    picture_frames: NDArray[np.int64] | None
    # Flat, of one picture after the other; rows and columns of each; the digest of their codec.
    image_codes: NDArray[np.int64] | None
    image_latents: NDArray[np.float32] | None
    image_grid: NDArray[np.int64] | None
    image_codec: str | None
    # All captions of the sample, where there are several.
    captions: Sequence[str] | None
    best_caption: str | None
    # Why nothing can be learnt from it.
    fault: str | None
    # image, video, document or edit; said by the source, not by the shard.
    media: str


class StreamFacts(TypedDict):
    """Where a stream of rows is; the fields of `planner.StreamState`."""

    block: int
    row: int
    cursors: list[int]
    rows: int
    too_long: int
    unusable: int
    windowed: int


class InputDigests(TypedDict):
    """What tells codec, tokenizer and encoder of a training from others; "" for none."""

    codec: str
    tokenizer: str
    encoder: str


class TrainingFacts(TypedDict):
    """What a training says of itself beside its weights."""

    # Of `TrainConfig`, as plain values.
    config: dict[str, object]
    stream: StreamFacts
    inputs: InputDigests
    # Digest of each source.
    data: list[str]
    # Steps that were done when the data became these, by a list that was added or another choice; 0
    # if they are those of the first step.
    data_from: int
    # Documents that were seen, and those of them whose sample could not be read.
    documents: int
    lost: int


class CheckpointFacts(TrainingFacts):
    """`state.json` of a checkpoint."""

    format: int
    step: int


class VocabularyFacts(TypedDict):
    """What the constructor of `Vocabulary` takes."""

    text: str
    codebooks: list[int]
    queries: int
    # Of `PretrainedText`; None: trained from zero.
    pretrained: dict[str, Any] | None


class ModelFacts(TypedDict):
    """`model.json` beside exported weights."""

    format: int
    step: int
    # Of `ModelConfig` and of `DocumentLayout`.
    model: dict[str, object]
    paradigm: str
    layout: dict[str, object]
    vocabulary: VocabularyFacts
    codec_digest: str
    training: dict[str, object]


class TrainingSummary(TypedDict):
    """The first line of a log, and what MFU is computed from."""

    summary: str
    flops_per_token: float
    # Of all devices; 0: unknown.
    peak_flops: float


LogLine = dict[str, float | None]
"""Quantity -> value at a step; None where it was no number."""


class LostLine(TypedDict):
    """A line of `lost.jsonl`: a sample that could not be read, and the step that went without."""

    step: int
    shard: str
    key: str
    reason: str
