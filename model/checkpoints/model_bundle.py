"""A model less its weights: what laying out its documents and decoding its pictures takes."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import Tensor

from gristmill.model.codecs.base import Codec, balancing_weights
from gristmill.model.data.image_tokenizer import ImageTokenizer
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.documents.document_writer import DocumentLayout, DocumentWriter
from gristmill.model.documents.paradigms import Paradigm
from gristmill.model.documents.picture_encoding import encode_pictures
from gristmill.model.documents.vocabulary import Vocabulary
from gristmill.model.encoders.config import VisionConfig
from gristmill.model.network.model_config import ModelConfig


@dataclass(frozen=True)
class ModelBundle:
    """What sampling needs beside weights."""

    model_config: ModelConfig
    vocabulary: Vocabulary
    paradigm: Paradigm
    layout: DocumentLayout
    codec: Codec
    encoder: VisionConfig | None
    image_tokenizer: ImageTokenizer

    @property
    def writer(self) -> DocumentWriter:
        """Lays out what the model is asked."""
        return DocumentWriter(
            self.vocabulary, self.paradigm, self.layout, self.code_weights.numpy()
        )

    @functools.cached_property
    def code_weights(self) -> Tensor:
        """What the labels of codes were weighted with, of all codebooks."""
        return balancing_weights(self.codec, self.layout.code_balance)

    def encode_pictures(self, batch: PackedBatch) -> PackedBatch:
        """The batch with what the codec makes of its pictures, on the batch's device."""
        if not batch.raw:
            return batch
        codec = self.codec.to(batch.ids.device)
        return encode_pictures(batch, codec, self.vocabulary.code_starts, self.code_weights)
