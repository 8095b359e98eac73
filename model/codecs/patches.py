"""Codecs that are fitted to patches: k-means, principal components, and patches as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float32
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.base import (
    Codec,
    Codes,
    Latents,
    Pixels,
    from_patches,
    nearest,
    to_patches,
)


class KMeansCodec(Codec):
    """Each patch is the nearest of a codebook of mean patches; further codebooks spell what the
    ones before left over (residual quantisation).

    Colour differences count `chroma` times as much as brightness, and the means are found among
    patches drawn by their contrast: most patches are ground, and would take most of the codes.
    """

    kind = "kmeans"
    discrete = True
    is_network = False
    means: Tensor
    mix: Tensor
    unmix: Tensor

    def __init__(
        self,
        *,
        side: int = 24,
        patch: int = 4,
        sizes: Sequence[int] = (2048,),
        chroma: float = 2.0,
    ) -> None:
        super().__init__(side=side, patch=patch)
        self.sizes = tuple(int(size) for size in sizes)
        self.chroma = chroma
        grey = torch.ones(3, 3) / 3
        mix = grey + chroma * (torch.eye(3) - grey)
        self.register_buffer("mix", mix, persistent=False)
        self.register_buffer("unmix", torch.linalg.inv(mix), persistent=False)
        self.register_buffer("means", torch.zeros(sum(self.sizes), 3 * patch * patch))

    @property
    def vocabularies(self) -> tuple[int, ...]:
        return self.sizes

    def fields(self) -> Mapping[str, object]:
        return {
            "side": self.side, "patch": self.patch, "sizes": self.sizes, "chroma": self.chroma,
        }  # fmt: skip

    def code_features(self) -> list[Tensor]:
        """The mean patches."""
        return list(self.means.split(list(self.sizes)))

    def _rows(self, pictures: Tensor) -> Tensor:
        """Mixed patches, [n * h * w, 3 * patch * patch]."""
        mixed = torch.einsum("nchw,dc->ndhw", pictures, self.mix)
        return to_patches(mixed, self.patch).reshape(-1, 3 * self.patch**2)

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Find the means; raises `ConfigurationError` for fewer patches than codes."""
        rows = self._rows(pictures)
        if len(rows) < max(self.sizes):
            raise ConfigurationError(f"{len(rows)} patches for {self.sizes} codes; give more")
        contrast = contrast_of(rows.reshape(len(rows), 3, -1))
        generator = torch.Generator().manual_seed(seed)
        books = []
        for size in self.sizes:
            books.append(find_means(rows, contrast, size, generator, seed + 1))
            rows = rows - books[-1][nearest(rows, books[-1])]
        self.means.copy_(torch.cat(books))

    def _encode(self, pictures: Pixels) -> Codes:
        rows = self._rows(pictures)
        codes = []
        for means in self.means.split(list(self.sizes)):
            codes.append(nearest(rows, means))
            rows = rows - means[codes[-1]]
        grid = self.grid_of(pictures.shape[2], pictures.shape[3])
        return torch.stack(codes, dim=1).reshape(len(pictures), *grid, len(codes))

    def _decode(self, grid: Codes) -> Pixels:
        books = self.means.split(list(self.sizes))
        rows = torch.stack([means[grid[..., i]] for i, means in enumerate(books)]).sum(dim=0)
        mixed = from_patches(rows, self.patch)
        return torch.einsum("nchw,dc->ndhw", mixed, self.unmix)


def contrast_of(parts: Float32[Tensor, "patches channels pixels"]) -> Float32[Tensor, " patches"]:
    """How likely each patch should be among those that means are found of."""
    # A patch of one colour has no edge, and still must have a code if the colour is rare.
    means = parts.mean(dim=2)
    far = ((means - means.mean(dim=0)) ** 2).sum(dim=1)
    rare = (far - 4 * far.median()).clamp_min(0)
    return (parts.var(dim=2).sum(dim=1) + 0.3 * rare + 0.003) ** 1.25


def find_means(
    rows: Float32[Tensor, "patches features"],
    weights: Float32[Tensor, " patches"],
    size: int,
    generator: torch.Generator,
    seed: int,
) -> Float32[Tensor, "size features"]:
    """k-means of patches drawn by their weights."""
    import faiss

    drawn = torch.multinomial(weights[: 2**24], 200 * size, replacement=True, generator=generator)
    kmeans = faiss.Kmeans(
        rows.shape[1], size, niter=20, seed=seed, min_points_per_centroid=1,
        max_points_per_centroid=200,
    )  # fmt: skip
    kmeans.train(rows[drawn].contiguous().numpy())
    return torch.from_numpy(kmeans.centroids)


class RawPatches(Codec):
    """Patches of pixels as they are, scaled by their standard deviation: no loss at all."""

    kind = "raw"
    discrete = False
    is_network = False

    def __init__(self, *, side: int = 24, patch: int = 4, scale: float = 0.5) -> None:
        super().__init__(side=side, patch=patch)
        self.scale = scale

    @property
    def channels(self) -> int:
        return 3 * self.patch**2

    def fields(self) -> Mapping[str, object]:
        return {"side": self.side, "patch": self.patch, "scale": self.scale}

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Measure the scale."""
        self.scale = float(pictures.std())

    def _encode(self, pictures: Pixels) -> Latents:
        return to_patches(pictures, self.patch) / self.scale

    def _decode(self, grid: Latents) -> Pixels:
        return from_patches(grid * self.scale, self.patch)


class WhitenedPatches(Codec):
    """Principal components of patches at unit variance (PCA whitening): small linear latents."""

    kind = "pca"
    discrete = False
    is_network = False
    mean: Tensor
    axes: Tensor
    spread: Tensor

    def __init__(self, *, side: int = 24, patch: int = 4, components: int = 24) -> None:
        super().__init__(side=side, patch=patch)
        self.components = components
        size = 3 * patch * patch
        if components > size:
            raise ConfigurationError(f"{components} components of patches of {size} values")
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("axes", torch.zeros(size, components))
        self.register_buffer("spread", torch.ones(components))

    @property
    def channels(self) -> int:
        return self.components

    def fields(self) -> Mapping[str, object]:
        return {"side": self.side, "patch": self.patch, "components": self.components}

    def fit(self, pictures: Tensor, seed: int) -> None:
        """Find the axes. The weakest are not blown up beyond a fiftieth of the strongest."""
        rows = to_patches(pictures, self.patch).reshape(-1, 3 * self.patch**2).double()
        self.mean.copy_(rows.mean(dim=0))
        values, vectors = torch.linalg.eigh(torch.cov(rows.T))
        order = values.argsort(descending=True)[: self.components]
        self.axes.copy_(vectors[:, order])
        spread = values[order].clamp_min(0).sqrt()
        self.spread.copy_(spread.clamp_min(float(spread[0]) / 50))

    def _encode(self, pictures: Pixels) -> Latents:
        return (to_patches(pictures, self.patch) - self.mean) @ self.axes / self.spread

    def _decode(self, grid: Latents) -> Pixels:
        rows = (grid * self.spread) @ self.axes.T + self.mean
        return from_patches(rows, self.patch)
