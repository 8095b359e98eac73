"""A small CLIP trained on a trusted slice, to score the rest (Data Filtering Networks, Fang et al.
2023): what filters well need not be large, it has to have learnt from clean pairs."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch.nn import Module, Parameter


class Clip(Protocol):
    """What open_clip's CLIP is used for here."""

    logit_scale: Tensor

    def parameters(self) -> Iterator[Parameter]:
        """All of them."""

    def train(self) -> Module:
        """Set to training."""

    def encode_image(self, image: Tensor, normalize: bool) -> Tensor:
        """[n, 3, side, side] -> [n, width]."""

    def encode_text(self, text: Tensor, normalize: bool) -> Tensor:
        """[n, tokens] -> [n, width]."""


IMAGE_SIZE = 64
# A convolutional picture tower learns colours and shapes in seconds; open_clip's "ModifiedResNet".
SMALL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": IMAGE_SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
    "text_cfg": {
        "context_length": 24,
        "vocab_size": 49408,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
}
_MEAN_STD = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@dataclass(frozen=True)
class Training:
    """What a training came to."""

    # Mean loss of the first and the last tenth of the steps.
    first_loss: float
    last_loss: float
    steps: int
    seconds: float


def train_filter_network(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    out: str,
    *,
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
    seed: int = 0,
    threads: int = 2,
    on_step: Callable[[int, float], None] | None = None,
) -> Training:
    """Train on (picture, caption) pairs and save where "local-dir:<out>" finds it.

    Pictures are uint8 RGB of any size. The same seed and threads give the same weights. Raises
    `ConfigurationError` for fewer pairs than a batch.
    """
    import open_clip
    import torch

    if len(images) < batch_size or len(images) != len(captions):
        raise ConfigurationError(
            f"{len(images)} pictures and {len(captions)} captions for batches of {batch_size}; "
            "give one caption a picture and at least one batch"
        )
    os.makedirs(out, exist_ok=True)
    config = os.path.join(out, "filter_network.json")
    with open(config, "w", encoding="utf-8") as file:
        json.dump(SMALL, file, indent=1)
    open_clip.add_model_config(config)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    start = time.perf_counter()
    model = open_clip.model.CLIP(**SMALL)
    pixels = _pixels(images)
    tokens = open_clip.get_tokenizer("filter_network")(list(captions))
    # A pair counts as right for every picture that has the same caption.
    labels = {text: i for i, text in enumerate(dict.fromkeys(captions))}
    same = torch.tensor([labels[text] for text in captions])
    losses = _descend(
        model, pixels, tokens, same, steps=steps, batch_size=batch_size, rate=learning_rate,
        seed=seed, on_step=on_step,
    )  # fmt: skip
    _save(model, out)
    torch.set_num_threads(threads_before)
    tenth = max(1, steps // 10)
    return Training(
        first_loss=float(np.mean(losses[:tenth])),
        last_loss=float(np.mean(losses[-tenth:])),
        steps=steps,
        seconds=time.perf_counter() - start,
    )


def _descend(
    model: Clip,
    pixels: Tensor,
    tokens: Tensor,
    same: Tensor,
    *,
    steps: int,
    batch_size: int,
    rate: float,
    seed: int,
    on_step: Callable[[int, float], None] | None,
) -> list[float]:
    """The loss of each step, over pairs in an order that `seed` fixes."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    order = torch.randperm(len(pixels), generator=generator)
    at = 0
    model.train()
    for step in range(steps):
        if at + batch_size > len(order):
            order, at = torch.randperm(len(pixels), generator=generator), 0
        rows, at = order[at : at + batch_size], at + batch_size
        loss = _loss(model, _jitter(pixels[rows], generator), tokens[rows], same[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(float(loss.detach()))
        if on_step is not None:
            on_step(step, losses[-1])
    return losses


def _rate(step: int, steps: int) -> float:
    """Warm-up over a twentieth, then a cosine to a hundredth."""
    warm = max(1, steps // 20)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def _pixels(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """[n, 3, 64, 64] uint8, resized as open_clip's transform would."""
    import cv2
    import torch

    resized = [
        cv2.resize(image, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_AREA)
        for image in images
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()


def _jitter(pixels: Tensor, generator: Generator) -> Tensor:
    """Shifts of some pixels and a little brightness; no flips, as captions say left and right."""
    import torch

    values = (pixels.float() / 255 - 0.5) / 0.25
    shift = torch.randint(-4, 5, (2,), generator=generator).tolist()
    values = torch.roll(values, shifts=shift, dims=(2, 3))
    gain = 1 + 0.15 * torch.randn(len(values), 1, 1, 1, generator=generator)
    offset = 0.15 * torch.randn(len(values), 1, 1, 1, generator=generator)
    return values * gain + offset


def _loss(model: Clip, pixels: Tensor, tokens: Tensor, same: Tensor) -> Tensor:
    """Symmetric contrastive loss; rows with the same caption are all right answers."""
    import torch

    image = model.encode_image(pixels, normalize=True)
    text = model.encode_text(tokens, normalize=True)
    logits = model.logit_scale.exp() * image @ text.T
    target = (same[:, None] == same[None]).float()
    target = target / target.sum(dim=1, keepdim=True)
    return (
        torch.nn.functional.cross_entropy(logits, target)
        + torch.nn.functional.cross_entropy(logits.T, target)
    ) / 2


def _save(model: Module, out: str) -> None:
    from safetensors.torch import save_file

    with open(os.path.join(out, _CONFIG), "w", encoding="utf-8") as file:
        json.dump({"model_cfg": SMALL, "preprocess_cfg": _MEAN_STD}, file, indent=1)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, os.path.join(out, _WEIGHTS))
