"""CLIP score: how well a caption fits its picture, by any model that open_clip can load."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError
from gristmill.pipelines import heartbeat
from gristmill.pipelines.captions.bounded_text import for_encoder
from gristmill.pipelines.decode import Image
from gristmill.pipelines.images.clip_weights import (
    HUB,
    LOCAL,
    describe_weights,
    model_config,
    require_files,
    require_weights,
)
from gristmill.pipelines.media import PICTURE, Decoded, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Needs, Score, execution, require_choice, setting


@dataclass(frozen=True, kw_only=True)
class ClipScore(Score):
    """Cosine of picture and caption (Radford et al. 2021; as used by LAION and DataComp).

    `model`: a name open_clip knows, "hf-hub:org/name", "local-dir:/folder" (a configuration and
    weights as open_clip saves them) or the path of a configuration .json.
    """

    media: ClassVar[Media | None] = PICTURE
    libraries: ClassVar[tuple[str, ...]] = ("torch", "open_clip_torch")

    # A name that open_clip knows, "hf-hub:org/name", "local-dir:/folder" or a .json.
    model: str = "ViT-B-32"
    # Tag of published weights, or the path of a .pt or .safetensors file.
    pretrained: str = "datacomp_xl_s13b_b90k"
    # auto: fp32 on a CPU, bf16 on a GPU.
    precision: str = setting("auto", choices=("auto", "fp32", "fp16", "bf16"))
    # auto: cuda if there is one.
    device: str = "auto"
    # Rows of one forward pass; part of the result's last bits.
    batch_size: int = setting(64, unit="rows", low=1)
    # CPU threads of a worker; part of the result's last bits.
    threads: int = setting(1, low=1)
    # Also store the unit-length embeddings of picture and caption, float16.
    embeddings: bool = True
    # Name of the score's column; a second model, such as a filter network, needs another.
    name: str = "clip_score"
    # GPUs of one worker on a cluster; a share such as 0.5 puts two on one.
    gpus: float = execution(0.0, low=0)

    def reads(self) -> tuple[str, ...]:
        """The caption; pictures come decoded."""
        return ("caption",)

    def writes(self) -> pa.Schema:
        """The score, null without a caption, and the embeddings."""
        return pa.schema([pa.field(self.name, pa.float32()), *self.embedding_fields()])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            self.name: ColumnFacts("Cosine of picture and caption.", low=-1, high=1),
            "image_embedding": ColumnFacts("Embedding of the picture, unit length, float16."),
            "text_embedding": ColumnFacts("Embedding of the caption, unit length, float16."),
        }

    def embedding_fields(self) -> list[pa.Field]:
        """Fields of the embeddings, if they are wanted."""
        if not self.embeddings:
            return []
        kind = pa.list_(pa.float16(), int(model_config(self.model)["embed_dim"]))
        return [pa.field(name, kind) for name in ("image_embedding", "text_embedding")]

    def needs(self) -> Needs:
        """Threads, GPUs, and memory for weights and pictures."""
        return Needs(cpus=float(self.threads), gpus=self.gpus, memory_gb=2.0)

    def files(self) -> tuple[str, ...]:
        """Local configuration and weights."""
        named = [self.model.removeprefix(LOCAL), self.pretrained]
        return tuple(path for path in named if path and os.path.exists(path))

    def check(self) -> None:
        """Validate the fields, and that files which are named are there."""
        require_choice(self, "precision")
        if self.batch_size < 1 or self.threads < 1:
            raise ConfigurationError("batch_size and threads must be at least 1")
        model_config(self.model)
        require_files(self.model, self.pretrained)

    def weights(self) -> tuple[str, ...]:
        """Published weights by their name."""
        return describe_weights(self.model, self.pretrained)

    def check_weights(self) -> None:
        """Have published weights in the cache of this machine."""
        require_weights(self.model, self.pretrained)

    def is_disabled(self) -> bool:
        """No model is named."""
        return not self.model

    def prepare(self) -> None:
        """Load the model."""
        _load(self.model, self.pretrained, self.precision, self.device, self.threads)

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Score rows in batches of `batch_size`, in their order."""
        assert images is not None
        captions = table["caption"].to_pylist()
        schema = self.writes()
        if not captions:
            return schema.empty_table()
        picture, text = self.embed_images(images), self.embed_texts(captions)
        cosine = (picture * text).sum(axis=1).astype(np.float64).round(5).astype(np.float32)
        missing = np.array([caption is None for caption in captions])
        columns: list[object] = [pa.array(cosine, pa.float32(), mask=missing)]
        return pa.table([*columns, *self.embedding_columns(picture, text)], schema=schema)

    def embed_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Unit-length embeddings [n, width] of pictures, in batches."""
        loaded, size = self._loaded(), self.batch_size
        found = []
        for i in range(0, len(images), size):
            found.append(loaded.images(images[i : i + size]))
            heartbeat.beat(min(i + size, len(images)), len(images))
        return np.concatenate(found)

    def embed_texts(self, texts: Sequence[str | None]) -> NDArray[np.float32]:
        """Unit-length embeddings [n, width] of texts, in batches; of "" for None."""
        loaded, size = self._loaded(), self.batch_size
        steps = range(0, len(texts), size)
        return np.concatenate([loaded.texts(texts[i : i + size]) for i in steps])

    def embedding_columns(
        self, picture: NDArray[np.float32], text: NDArray[np.float32]
    ) -> list[pa.Array]:
        """Embeddings as float16 columns, if they are wanted."""
        if not self.embeddings:
            return []
        return [
            pa.FixedSizeListArray.from_arrays(
                pa.array(values.astype(np.float16).reshape(-1), pa.float16()), values.shape[1]
            )
            for values in (picture, text)
        ]

    def _loaded(self) -> _Clip:
        return _load(self.model, self.pretrained, self.precision, self.device, self.threads)


class _Clip:
    """A loaded model with its preprocessing."""

    def __init__(self, model: str, pretrained: str, precision: str, device: str) -> None:
        import open_clip
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if precision == "auto":
            precision = "bf16" if device.startswith("cuda") else "fp32"
        name = model
        if model.endswith(".json"):
            open_clip.add_model_config(model)
            name = os.path.basename(model).removesuffix(".json")
        weights = None if model.startswith((LOCAL, HUB)) else pretrained
        self.model, _, self.transform = open_clip.create_model_and_transforms(
            name,
            pretrained=weights,
            precision=precision,
            device=device,
            require_pretrained=True,
        )
        self.model.eval()
        self.tokenizer = open_clip.get_tokenizer(name)
        self.device = device
        self.dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)

    def images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Unit-length embeddings of pictures, [n, width] float32."""
        import PIL.Image
        import torch

        pixels = torch.stack([self.transform(PIL.Image.fromarray(image)) for image in images])
        return self._forward(self.model.encode_image, pixels, self.dtype)

    def texts(self, texts: Sequence[str | None]) -> NDArray[np.float32]:
        """Unit-length embeddings of texts, [n, width] float32."""
        tokens = self.tokenizer([for_encoder(text or "") for text in texts])
        return self._forward(self.model.encode_text, tokens, None)

    def _forward(self, encode: Any, batch: Any, dtype: Any) -> NDArray[np.float32]:
        """One pass; a batch that does not fit the GPU is halved."""
        import torch

        try:
            with torch.inference_mode():
                found = encode(batch.to(self.device, dtype), normalize=True)
                values: NDArray[np.float32] = found.float().cpu().numpy()
                return values
        except torch.OutOfMemoryError:
            half = len(batch) // 2
            if half == 0:
                raise
        torch.cuda.empty_cache()
        pieces = [self._forward(encode, part, dtype) for part in (batch[:half], batch[half:])]
        return np.concatenate(pieces)


@functools.lru_cache(maxsize=2)
def _load(model: str, pretrained: str, precision: str, device: str, threads: int) -> _Clip:
    import torch

    torch.set_num_threads(threads)
    return _Clip(model, pretrained, precision, device)
