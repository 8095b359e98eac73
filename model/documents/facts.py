"""What is written down of samples, streams and vocabularies: the keys, and what they hold.

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
    """Where a stream of rows is: the fields of `stream.LaneState`, of each lane."""

    block: list[int]
    row: list[int]
    cursors: list[list[int]]
    rows: list[int]
    too_long: list[int]
    unusable: list[int]
    windowed: list[int]


class VocabularyFacts(TypedDict):
    """What the constructor of `Vocabulary` takes."""

    text: str
    codebooks: list[int]
    queries: int
    # Of `PretrainedText`; None: trained from zero.
    pretrained: dict[str, Any] | None
