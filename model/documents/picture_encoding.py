"""Pictures that the training step encodes on its own device, as the loader runs no network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int64, UInt8

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from gristmill.model.codecs.base import Codec
    from gristmill.model.documents.batch import PackedBatch

# Pixels that a codec encodes at once.
_AT_ONCE = 2**22


@dataclass
class RawPicture:
    """Pixels of one picture of a document, and where what a codec makes of them goes."""

    pixels: UInt8[np.ndarray, "height width 3"]
    # Row of the latents where each copy of it begins.
    latent_rows: list[int] = field(default_factory=list)
    # Of each copy, for every code in raster order: the position of its id, and that of its label;
    # -1 where there is none.
    code_ids: list[Int64[np.ndarray, " codes"]] = field(default_factory=list)
    code_labels: list[Int64[np.ndarray, " codes"]] = field(default_factory=list)

    def moved(self, positions: int, latents: int) -> RawPicture:
        """The same behind so many positions and latents of other documents."""
        return RawPicture(
            self.pixels,
            [row + latents for row in self.latent_rows],
            [np.where(ids >= 0, ids + positions, -1) for ids in self.code_ids],
            [np.where(labels >= 0, labels + positions, -1) for labels in self.code_labels],
        )

    def after(self, positions: int, latents: int) -> RawPicture:
        """The same of a document without its first so many positions and latents."""
        kept = [
            (ids, labels)
            for ids, labels in zip(self.code_ids, self.code_labels, strict=True)
            if max(ids.max(), labels.max()) >= positions
        ]
        left = RawPicture(
            self.pixels,
            [row for row in self.latent_rows if row >= latents],
            [ids for ids, _ in kept],
            [labels for _, labels in kept],
        )
        return left.moved(-positions, -latents)

    @property
    def goes_nowhere(self) -> bool:
        """Whether no copy of it is left."""
        return not self.latent_rows and not self.code_ids


@torch.no_grad()
def encode_pictures(
    batch: PackedBatch, codec: Codec, code_starts: Sequence[int], code_weights: Tensor
) -> PackedBatch:
    """Fill in what pictures of the batch come to: latents, or ids, labels and the weights of codes.
    The batch is changed in place, and has no raw pictures afterwards.

    `codec` lies on the batch's device; `code_weights`: one for each code of all codebooks.
    """
    alike: dict[tuple[int, ...], list[RawPicture]] = {}
    for picture in batch.raw:
        alike.setdefault(picture.pixels.shape, []).append(picture)
    code_weights = code_weights.to(batch.ids.device)
    starts = torch.tensor(code_starts, device=batch.ids.device, dtype=torch.long)
    for (height, width, _), pictures in alike.items():
        several = max(1, _AT_ONCE // (height * width))
        for begin in range(0, len(pictures), several):
            part = pictures[begin : begin + several]
            encoded = _encode(codec, part, batch.ids.device)
            for picture, grid in zip(part, encoded, strict=True):
                flat = grid.reshape(-1, grid.shape[-1])
                for row in picture.latent_rows:
                    batch.latent[row : row + len(flat)] = flat.to(batch.latent)
                if codec.discrete:
                    codes = (flat + starts).reshape(-1)
                    _put_codes(batch, picture, codes, code_weights[codes - starts[0]])
    batch.raw = []
    return batch


def _encode(codec: Codec, pictures: Sequence[RawPicture], device: torch.device) -> Tensor:
    from gristmill.model.codecs.base import to_unit

    stacked = torch.from_numpy(np.stack([picture.pixels for picture in pictures]))
    return codec.encode(to_unit(stacked.to(device, non_blocking=True)))


def _put_codes(batch: PackedBatch, picture: RawPicture, codes: Tensor, weights: Tensor) -> None:
    """Ids and labels of every copy; labels weigh as much as their codes do."""
    for ids, labels in zip(picture.code_ids, picture.code_labels, strict=True):
        for name, where in (("ids", ids), ("labels", labels)):
            at = torch.from_numpy(np.flatnonzero(where >= 0)).to(codes.device)
            target = torch.from_numpy(where[where >= 0]).to(codes.device)
            getattr(batch, name).view(-1)[target] = codes[at]
            if name == "labels":
                batch.weight.view(-1)[target] *= weights[at].to(batch.weight)
