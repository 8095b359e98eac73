"""The encoder that recipes hand to the `Tokens` stage: columns that training reads back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from gristmill.model.center_crop import resize_center_crop
from gristmill.model.codecs.base import to_unit
from gristmill.model.codecs.registry import load_codec
from gristmill.model.vocabulary import check_text
from gristmill.pipelines.decode import Image

# Pictures encoded at once.
_BATCH = 64


class ShardTokens:
    """`image_codes` (int32) or `image_latents` (float32), flat in raster order; `image_codec`, the
    digest of the codec's file; `text_tokens` (int32).

    Encoded on one thread, so that the bytes do not depend on the machine's cores.
    """

    def __init__(self, images: str, text: str) -> None:
        self._codec = load_codec(images) if images else None
        self._text = None
        fields = []
        if self._codec is not None:
            self._column = "image_codes" if self._codec.discrete else "image_latents"
            kind = pa.int32() if self._codec.discrete else pa.float32()
            fields.append(pa.field(self._column, pa.list_(kind)))
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
            columns.append(pa.array(self._pictures(images), self.schema.field(self._column).type))
            columns.append(pa.array([self._codec.digest] * len(images), pa.string()))
        if self._text is not None:
            ids = [found.ids for found in self._text.encode_batch(list(texts))]
            columns.append(pa.array(ids, pa.list_(pa.int32())))
        return pa.table(columns, schema=self.schema)

    def _pictures(self, images: Sequence[Image]) -> list[list[float]]:
        assert self._codec is not None
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        rows: list[list[float]] = []
        try:
            for start in range(0, len(images), _BATCH):
                small = np.stack(
                    [
                        resize_center_crop(image, self._codec.side)
                        for image in images[start : start + _BATCH]
                    ]
                )
                with torch.no_grad():
                    grid = self._codec.encode(to_unit(torch.from_numpy(small))).numpy()
                if not self._codec.discrete:
                    grid = np.round(grid, 5)
                rows += list(grid.reshape(len(small), -1))
        finally:
            torch.set_num_threads(threads)
        return rows
