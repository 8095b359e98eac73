"""The codecs there are, their training, and their files.

A codec says what it costs: its reconstruction ceiling is measured when it is trained, stored in its
file and printed, as no model can draw better than its codec.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from gristmill.errors import ConfigurationError
from gristmill.model.codecs.autoencoders import FsqCodec, VaeCodec
from gristmill.model.codecs.base import Bytes, Codec, Pixels, to_bytes, to_unit
from gristmill.model.codecs.patches import KMeansCodec, RawPatches, WhitenedPatches
from gristmill.model.codecs.pretrained import PretrainedVae, PretrainedVq
from gristmill.model.codecs.pretrained_codebooks import ChameleonVq, Emu3Vq, JanusVq
from gristmill.model.codecs.two_colours import TwoColourCodec

CODECS: dict[str, type[Codec]] = {
    cls.kind: cls
    for cls in (
        KMeansCodec, FsqCodec, VaeCodec, RawPatches, WhitenedPatches, PretrainedVae, PretrainedVq,
        JanusVq, Emu3Vq, ChameleonVq, TwoColourCodec,
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CodecTraining:
    """How a codec is trained."""

    steps: int = 500
    batch_size: int = 128
    learning_rate: float = 3e-3
    seed: int = 0
    # bfloat16 where the machine is fast in it.
    bf16: bool = field(default=True)


def train_codec(codec: Codec, pictures: Bytes, training: CodecTraining | None = None) -> Codec:
    """Train or fit a codec on pictures and measure its ceiling.

    The first are held out for it, see `held_out`. Raises
    `ConfigurationError` for pictures of another size, or too few.
    """
    training = training or CodecTraining()
    if pictures.shape[1:] != (codec.side, codec.side, 3):
        raise ConfigurationError(
            f"pictures of shape {tuple(pictures.shape)} for a codec of "
            f"[n, {codec.side}, {codec.side}, 3]"
        )
    if len(pictures) < 2:
        raise ConfigurationError(f"{len(pictures)} pictures; a codec needs at least two")
    kept = held_out(pictures)
    unit = to_unit(pictures)
    train, test = unit[kept:], unit[:kept]
    torch.manual_seed(training.seed)
    if any(parameter.requires_grad for parameter in codec.parameters()):
        _descend(codec, train, training)
    codec.eval()
    fit = getattr(codec, "fit", None)
    if fit is not None:
        fit(train, training.seed)
    codec.ceiling = measure(codec, test) if codec.decodes else {}
    if codec.discrete:
        codec.frequencies = _count_codes(codec, train[:4096])
    return codec


def held_out(pictures: Bytes) -> int:
    """How many of the pictures, the first ones, a codec is not trained on."""
    return max(1, len(pictures) // 20)


@torch.no_grad()
def reconstruct(codec: Codec, pictures: Bytes) -> Bytes:
    """Pictures as the codec gives them back."""
    parts = [to_bytes(codec.decode(codec.encode(to_unit(p)))) for p in pictures.split(256)]
    return torch.cat(parts)


@torch.no_grad()
def _count_codes(codec: Codec, pictures: Pixels) -> Float32[Tensor, " codes"]:
    """Shares of each codebook, each summing to one; what was never met counts half a time."""
    grids = torch.cat([codec.encode(part) for part in pictures.split(256)])
    shares = []
    for book, size in enumerate(codec.vocabularies):
        counts = torch.bincount(grids[..., book].reshape(-1), minlength=size).float() + 0.5
        shares.append(counts / counts.sum())
    return torch.cat(shares)


def never_met(
    vocabularies: Sequence[int],
    met: Int64[Tensor, "*places codebooks"],
    judged: Int64[Tensor, "*others codebooks"],
) -> tuple[float, ...]:
    """Of each codebook, the share of the judged codes that are not among those met: what a model
    that learnt from the ones met can only draw by chance."""
    shares = []
    for book, size in enumerate(vocabularies):
        known = torch.zeros(size, dtype=torch.bool, device=met.device)
        known[met[..., book].reshape(-1)] = True
        shares.append(round(float((~known[judged[..., book]]).float().mean()), 4))
    return tuple(shares)


def _descend(codec: Codec, pictures: Pixels, training: CodecTraining) -> None:
    for module in codec.modules():
        if isinstance(module, nn.Conv2d) and not bool((module.weight == 0).all()):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    optimizer = torch.optim.AdamW(
        codec.parameters(), lr=training.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(training.seed)
    codec.train()
    codec.to(memory_format=torch.channels_last)
    for _ in range(training.steps):
        rows = torch.randint(len(pictures), (training.batch_size,), generator=generator)
        batch = pictures[rows].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=training.bf16):
            loss = codec.loss(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    codec.to(memory_format=torch.contiguous_format)


@torch.no_grad()
def measure(codec: Codec, unit: Pixels) -> dict[str, float]:
    """{"psnr": dB, "mse": of values in 0..1} of pictures in -1..1 against themselves decoded."""
    errors = [F.mse_loss(codec.decode(codec.encode(part)), part) for part in unit.split(256)]
    mse = float(torch.stack(errors).mean()) / 4
    return {"psnr": round(float(-10 * torch.log10(torch.tensor(max(mse, 1e-10)))), 2), "mse": mse}


def save_codec(codec: Codec, path: str) -> None:
    """One safetensors file: weights, and what the constructor takes as metadata."""
    from safetensors.torch import save_file

    facts = {"kind": codec.kind, "fields": codec.fields(), "ceiling": codec.ceiling}
    partial = path + ".partial"
    weights = {name: value.contiguous() for name, value in codec.state_dict().items()}
    # safetensors refuses a file of no tensors at all.
    weights["side"] = torch.tensor([codec.side])
    weights["frequencies"] = codec.frequencies
    save_file(weights, partial, metadata={"codec": json.dumps(facts)})
    os.replace(partial, path)
    codec.digest = _digest(path)


def load_codec(path: str) -> Codec:
    """Read what `save_codec` wrote. Raises `ConfigurationError` naming the remedy."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ConfigurationError(f"no codec at {path}; train one: gristmill train-codec") from None
    except SafetensorError as error:
        raise ConfigurationError(f"{path} is not a codec file: {error}") from error
    if "codec" not in metadata:
        raise ConfigurationError(f"{path} is not a codec of ours: it has no 'codec' metadata")
    facts = json.loads(metadata["codec"])
    if facts["kind"] not in CODECS:
        raise ConfigurationError(f"{path}: unknown codec {facts['kind']!r}; known: {list(CODECS)}")
    codec = CODECS[facts["kind"]](**facts["fields"])
    weights.pop("side", None)
    codec.frequencies = weights.pop("frequencies", torch.zeros(0))
    try:
        codec.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigurationError(f"{path}: weights do not fit the codec: {error}") from error
    codec.ceiling, codec.digest = facts["ceiling"], _digest(path)
    return codec.eval()


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
