"""What only a GPU can say: one command on one H100, in under 8 minutes.

    python benchmarks/gpu.py                        # everything, a JSON line each
    python benchmarks/gpu.py --only step --seconds 240
    python benchmarks/gpu.py --device cpu --tiny    # whether all of it runs

Whether FlexAttention is SDPA, and the grouped matmul a loop over experts; steps of `small` and
`base` on packed text and on text mixed with pictures (two experts), compiled and not: tokens/s,
share of the peak, memory; AdamW fused and not; pictures/s of a CLIP. Weights are random, batches
are synthetic. A check that fails says why and the next one goes on; what there is no time for is
named. Ends with 1 if a check failed.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gristmill.model.documents.batch import (
    CAUSAL,
    FULL,
    GENERATE,
    IGNORE,
    NOISE,
    UNDERSTAND,
    Array,
    PackedBatch,
)
from gristmill.model.network.attention import TokenMeta, allow, attend, block_mask, make_mask
from gristmill.model.network.configurations import base, flops_per_token, nano, small
from gristmill.model.network.experts import ExpertLinear, Sorting
from gristmill.model.network.transformer import Transformer
from gristmill.model.training.optimizer import make_optimizer
from gristmill.model.training.train import compile_blocks

# Dense bfloat16 operations a second, by a word of the device's name.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
CHANNELS = 16


@dataclass(frozen=True)
class Machine:
    """What is measured, and in which sizes."""

    device: torch.device
    tiny: bool

    @property
    def peak(self) -> float:
        """Operations a second; 0 where unknown."""
        if self.device.type != "cuda":
            return 0.0
        name = torch.cuda.get_device_name()
        return next((peak for word, peak in PEAKS.items() if word in name), 0.0)

    def wait(self) -> None:
        """Until all work is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int = 5) -> float:
        """Median of some goes, after two that are not counted."""
        times = []
        for _ in range(2 + (1 if self.tiny else repeats)):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times[2:])

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16)


def packed(
    rows: int, length: int, vocabulary: int, device: torch.device, *, mixed: bool
) -> PackedBatch:
    """Rows of documents of 64 to 512 ids; of `mixed` ones, every document ends with a picture: its
    clean latents, then a noisy copy that learns."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, vocabulary, (rows, length))
    fields: dict[str, Array] = {
        "ids": ids, "labels": np.roll(ids, -1, 1), "weight": np.ones((rows, length), np.float32),
        "doc": np.zeros((rows, length), np.int32), "span": np.full((rows, length), -1, np.int32),
        "attn_mode": np.full((rows, length), CAUSAL, np.uint8),
        "expert": np.full((rows, length), UNDERSTAND, np.uint8),
        "pos": np.zeros((rows, length, 3), np.int32),
    }  # fmt: skip
    places: list[int] = []
    learnt: list[float] = []
    side = 4 if length < 1024 else 16
    for row in range(rows):
        at = doc = span = 0
        while at < length:
            end = min(length, at + int(rng.integers(length // 64 + 8, length // 8 + 9)))
            if mixed and end + 2 * side * side <= length:
                for mode, loss in ((FULL, 0.0), (NOISE, 1.0)):
                    there = slice(end, end + side * side)
                    fields["ids"][row, there] = -1
                    fields["span"][row, there] = span
                    fields["attn_mode"][row, there] = mode
                    fields["expert"][row, there] = GENERATE
                    places += range(row * length + end, row * length + there.stop)
                    learnt += [loss] * side**2
                    end, span = there.stop, span + 1
            fields["doc"][row, at:end] = doc
            fields["pos"][row, at:end] = np.arange(end - at)[:, None]
            fields["labels"][row, end - 1] = IGNORE
            at, doc = end, doc + 1
    silent = (fields["ids"] < 0) | (np.roll(fields["ids"], -1, 1) < 0)
    fields["labels"][silent] = IGNORE
    fields["weight"][fields["labels"] == IGNORE] = 0
    count = len(places)
    latents = rng.normal(size=(2, count, CHANNELS)).astype(np.float32)
    loss = np.array(learnt, np.float32)
    loose: dict[str, Array] = {
        "latent": latents[0], "latent_eps": latents[1],
        "latent_idx": np.array(places, np.int64), "latent_loss": loss,
        "latent_t": loss * rng.random(count).astype(np.float32),
        "latent_place": np.zeros((count, 2), np.int32),
        "semantic": np.zeros((0, 0), np.float32), "semantic_idx": np.zeros(0, np.int64),
    }  # fmt: skip
    tensors = {name: torch.from_numpy(value) for name, value in (fields | loose).items()}
    batch = PackedBatch(**tensors, semantic_spans=[], source=[[0]] * rows)
    return batch.to(device)


def _meta(batch: PackedBatch) -> TokenMeta:
    index = torch.arange(batch.doc.shape[1], device=batch.doc.device).expand_as(batch.doc)
    return TokenMeta(index, batch.doc, batch.span, batch.attn_mode)


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference, against the size of the values."""
    return float((one.float() - other.float()).abs().max() / other.float().std())


def attention(machine: Machine) -> dict[str, Any]:
    """Outputs, and on a GPU gradients, of FlexAttention beside SDPA, in float32
    and bfloat16."""
    rows, length = (2, 128) if machine.tiny else (2, 4096)
    meta = _meta(packed(rows, length, 100, machine.device, mixed=True))
    hidden = ~allow(meta, meta)
    numbers = torch.zeros(hidden.shape, device=machine.device).masked_fill_(hidden, -math.inf)
    if machine.device.type == "cuda":
        flex = functools.partial(attend, mask=make_mask(meta))
    else:
        # Elsewhere no mask of blocks is in use, and no kernel for it is compiled.
        from torch.nn.attention.flex_attention import flex_attention

        flex = functools.partial(flex_attention, block_mask=block_mask(meta), enable_gqa=True)
    found: dict[str, Any] = {"equal": True, "hidden_share": float(hidden.float().mean())}
    for dtype, limit in ((torch.float32, 2e-2), (torch.bfloat16, 1e-1)):
        made = [
            torch.randn(rows, heads, length, 64, device=machine.device).to(dtype)
            for heads in (8, 2, 2)
        ]
        results = []
        for run in (flex, functools.partial(attend, mask=numbers.to(dtype))):
            # FlexAttention has no backward pass on a CPU.
            learns = machine.device.type == "cuda"
            given = [one.clone().requires_grad_(learns) for one in made]
            out = run(*given)
            results.append([out.detach()])
            if learns:
                out.float().square().sum().backward()
                results[-1] += [one.grad for one in given]
        worst = max(_difference(*pair) for pair in zip(*results, strict=True))
        name = str(dtype).removeprefix("torch.")
        found[f"difference_{name}"] = worst
        found["equal"] = found["equal"] and worst < limit
    return found


def grouped(machine: Machine) -> dict[str, Any]:
    """The matmul of all experts at once beside a loop over them, in bfloat16: outputs, gradients
    and milliseconds."""
    tokens, experts, width, out = (64, 4, 32, 48) if machine.tiny else (32768, 8, 1024, 2048)
    layer = ExpertLinear(experts, width, out).to(machine.device)
    nn.init.normal_(layer.weight, std=width**-0.5)
    chosen = torch.randint(experts, (tokens,), device=machine.device)
    with machine.autocast():
        sorting = Sorting.of(chosen, experts)
    sizes = sorting.ends.diff(prepend=sorting.ends.new_zeros(1)).tolist()
    x = torch.randn(tokens, width, device=machine.device)[sorting.order]
    results, took = [], []
    for one in (_mapped_by(sorting, []), _mapped_by(sorting, sizes)):

        def run(one: Sorting = one) -> list[Tensor]:
            given = x.clone().requires_grad_()
            layer.weight.grad = None
            with machine.autocast():
                mapped = layer(given, one)
            mapped.float().square().sum().backward()
            assert given.grad is not None and layer.weight.grad is not None
            return [mapped.detach(), given.grad, layer.weight.grad]

        results.append(run())
        took.append(machine.seconds(run))
    worst = max(_difference(*pair) for pair in zip(*results, strict=True))
    return {
        "equal": worst < 1e-1, "difference": worst, "grouped_ms": 1e3 * took[0],
        "loop_ms": 1e3 * took[1],
    }  # fmt: skip


def _mapped_by(sorting: Sorting, sizes: list[int]) -> Sorting:
    """The same tokens, to be mapped together (no sizes) or one expert after the other."""
    return Sorting(sorting.order, sorting.inverse, sorting.expert, sorting.ends, sizes)


def step(
    machine: Machine, *, size: str, mixed: bool, compiled: bool, rows: int = 0
) -> dict[str, Any]:
    """A step of training as the trainer does it: forward, backward, AdamW."""
    length, vocabulary = (128, 256) if machine.tiny else (4096, 32768)
    rows = 2 if machine.tiny else rows
    make = nano if machine.tiny else {"small": small, "base": base}[size]
    kind = {"experts": "mot", "latent_channels": CHANNELS, "flow_head": "linear"} if mixed else {}
    config = make(vocabulary, **kind)  # type: ignore[arg-type]
    with machine.device:
        model = Transformer(config)
    if compiled:
        backend = "inductor" if machine.device.type == "cuda" else "aot_eager"
        compile_blocks(model, backend=backend)
    optimizer = make_optimizer(
        model, name="adamw", rate=1e-4, weight_decay=0.1, betas=(0.9, 0.95), bf16=True
    )
    batch = packed(rows, length, vocabulary, machine.device, mixed=mixed)
    weights, latents = batch.weight.sum(), batch.latent_loss.sum().clamp_min(1)

    def run() -> None:
        with machine.autocast():
            losses = model(batch)
        (losses.text / weights + losses.flow / latents + 1e-4 * losses.z / weights).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    start = time.perf_counter()
    run()
    machine.wait()
    first = time.perf_counter() - start
    seconds = machine.seconds(run)
    speed = rows * length / seconds
    found = {
        "parameters": sum(one.numel() for one in model.parameters()), "first_step_s": first,
        "step_ms": 1e3 * seconds, "tokens_per_s": speed, "mfu": None, "memory_gb": None,
    }  # fmt: skip
    if machine.peak:
        found["mfu"] = speed * flops_per_token(config, length) / machine.peak
    if machine.device.type == "cuda":
        found["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def adamw(machine: Machine) -> dict[str, Any]:
    """Milliseconds of AdamW over `small`, by one kernel and by one operation after the other."""
    with machine.device:
        model = Transformer((nano if machine.tiny else small)(256 if machine.tiny else 32768))
    for one in model.parameters():
        one.grad = torch.randn_like(one)
    found: dict[str, Any] = {}
    for name, options in (("fused", {"fused": True}), ("foreach", {"foreach": True})):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **options)
        found[f"{name}_ms"] = 1e3 * machine.seconds(optimizer.step)
    made = make_optimizer(model, name="adamw", rate=1e-4, weight_decay=0.0, betas=(0.9, 0.95))
    found["trainer_is_fused"] = bool(made.defaults["fused"])
    return found


def clip(machine: Machine) -> dict[str, Any]:
    """Pictures a second through a ViT-B-32 of open_clip, pixels already there."""
    import open_clip

    model = open_clip.create_model("ViT-B-32", pretrained=None, device=machine.device).eval()
    count = 2 if machine.tiny else 512
    pictures = torch.randn(count, 3, 224, 224, device=machine.device)

    @torch.no_grad()
    def run() -> Tensor:
        with machine.autocast():
            return F.normalize(model.encode_image(pictures).float(), dim=-1)

    return {"pictures_per_s": count / machine.seconds(run)}


def checks() -> Iterator[tuple[str, Callable[[Machine], dict[str, Any]]]]:
    """What is measured, what is quickest and matters most first."""
    yield "attention: flex == sdpa", attention
    yield "experts: grouped == loop", grouped
    yield "adamw: fused", adamw
    yield "clip", clip
    for size, rows in (("small", 16), ("base", 4)):
        for mixed in (False, True):
            for compiled in (True, False):
                kind = "mot, mixed" if mixed else "dense, text"
                name = f"step: {size}, {kind}, {'compiled' if compiled else 'not compiled'}"
                yield (
                    name,
                    functools.partial(step, size=size, mixed=mixed, compiled=compiled, rows=rows),
                )


class _TimeUpError(Exception):
    pass


def _stop(*_: object) -> None:
    raise _TimeUpError


def _line(facts: dict[str, Any]) -> None:
    plain = {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in facts.items()}
    print(json.dumps(plain), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=450.0)
    parser.add_argument("--only", default="", help="a word of the checks to run")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU: give --device cpu --tiny to see whether all of it runs")
    machine = Machine(torch.device(given.device), given.tiny)
    cuda = machine.device.type == "cuda"
    _line(
        {"device": torch.cuda.get_device_name() if cuda else "cpu", "torch": torch.__version__,
         "peak_flops": machine.peak, "tiny": given.tiny}
    )  # fmt: skip
    end = time.monotonic() + given.seconds
    signal.signal(signal.SIGALRM, _stop)
    failed = False
    for name, check in checks():
        if given.only not in name:
            continue
        left = end - time.monotonic()
        if left <= 1:
            _line({"check": name, "skipped": "no time left"})
            continue
        torch.manual_seed(0)
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, left)
        try:
            facts = check(machine)
        except _TimeUpError:
            facts = {"skipped": "the time was up in it"}
        except Exception as error:
            facts = {"error": f"{type(error).__name__}: {str(error)[:400]}"}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        failed |= "error" in facts or not facts.get("equal", True)
        _line({"check": name, "seconds": time.monotonic() - start, **facts})
        # What a check held is gone before the next; graphs of another size would be looked through.
        gc.collect()
        torch.compiler.reset()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
