"""The encoder that recipes hand to the `Tokens` stage: columns that training reads back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from gristmill.model.codecs.registry import load_codec
from gristmill.model.data.image_tokenizer import encode_all
from gristmill.model.documents.picture_grid import PictureGrid, fit_grid
from gristmill.model.documents.vocabulary import check_text
from gristmill.pipelines.decode import Image


class ShardTokens:
    """`image_codes` (int32) or `image_latents` (float32), flat in raster order; `image_grid`, rows
    and columns of each picture; `image_codec`, the digest of the codec's file; `text_tokens`
    (int32).

    Encoded on one thread, so that the bytes do not depend on the machine's cores.
    """

    def __init__(self, images: str, text: str, patches: int = 0) -> None:
        """`patches`: most places of a picture; 0: those of the square that the codec knows."""
        self._codec = load_codec(images) if images else None
        self._text = None
        fields = []
        if self._codec is not None:
            self._patches = patches or self._codec.grid[0] * self._codec.grid[1]
            self._column = "image_codes" if self._codec.discrete else "image_latents"
            kind = pa.int32() if self._codec.discrete else pa.float32()
            fields.append(pa.field(self._column, pa.list_(kind)))
            fields.append(pa.field("image_grid", pa.list_(pa.int32())))
            fields.append(pa.field("image_codec", pa.string()))
        if text:
            from tokenizers import Tokenizer

            with open(text, encoding="utf-8") as file:
                self._text = Tokenizer.from_str(check_text(file.read(), text))
            fields.append(pa.field("text_tokens", pa.list_(pa.int32())))
        self.schema = pa.schema(fields)

    def encode(self, images: Sequence[Image], texts: Sequence[str]) -> pa.Table:
        """Columns of `schema`, a row for each picture and caption."""
        columns = []
        if self._codec is not None:
            columns += self._pictures(images)
            columns.append(pa.array([self._codec.digest] * len(images), pa.string()))
        if self._text is not None:
            ids = [found.ids for found in self._text.encode_batch(list(texts))]
            columns.append(pa.array(ids, pa.list_(pa.int32())))
        return pa.table(columns, schema=self.schema)

    def _pictures(self, images: Sequence[Image]) -> list[pa.Array]:
        """Values, and rows and columns, of each picture."""
        codec = self._codec
        assert codec is not None
        grids = [
            fit_grid(image.shape[0], image.shape[1], codec.patch, self._patches) for image in images
        ]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            found = encode_all(codec, images, [PictureGrid(grid) for grid in grids])
        finally:
            torch.set_num_threads(threads)
        if not codec.discrete:
            found = [np.asarray(np.round(grid.astype(np.float32), 5)) for grid in found]
        return [
            pa.array([grid.reshape(-1) for grid in found], self.schema.field(self._column).type),
            pa.array(grids, pa.list_(pa.int32())),
        ]
