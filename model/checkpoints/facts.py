"""What is written down of trainings and models: the keys, and what they hold.

Checkpoints of others have these keys; they stay what they are.
"""

from __future__ import annotations

from typing import TypedDict

from gristmill.model.documents.facts import StreamFacts, VocabularyFacts


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
