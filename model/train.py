"""The trainer: one loop for every paradigm, on one process or many.

gristmill train tiny --paradigm ar --data runs/mine --codec codec.safetensors --out checkpoints/x
torchrun --nproc-per-node 8 -m gristmill.model base --data ... --out ...
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from gristmill.errors import TrainingError
from gristmill.model import checkpoint
from gristmill.model.batch import PackedBatch
from gristmill.model.dataloader import Loader
from gristmill.model.facts import TrainingFacts
from gristmill.model.lost_samples import LostCount
from gristmill.model.optimizer import MovingAverage, learning_rate, make_optimizer
from gristmill.model.planner import StreamState
from gristmill.model.train_config import TrainConfig, changed
from gristmill.model.train_log import Meter, TrainLog
from gristmill.model.training_setup import TrainingSetup, make_setup
from gristmill.model.transformer import Losses, Transformer


@dataclass(frozen=True)
class TrainResult:
    """What a training came to."""

    steps: int
    # Means over the first and the last tenth of the logged steps.
    first_loss: float
    last_loss: float
    seconds: float
    tokens: int


def train(config: TrainConfig, log: TrainLog | None = None) -> TrainResult:
    """Train, or go on from the last whole checkpoint in `config.out`.

    Under torchrun or Ray Train every rank calls this. Raises `ConfigurationError` for settings or
    data that cannot work, `TrainingError` for a loss that is no number or a checkpoint that does
    not fit; what was committed before stays.
    """
    config.check()
    checkpoint.require_training_folder(config.out)
    device = _join()
    if device.type == "cpu":
        keep_freed_memory()
    setup = make_setup(config)
    trainer = Trainer(config, setup, device)
    log = log or TrainLog(config.out, enabled=checkpoint.rank() == 0)
    try:
        return trainer.run(log)
    finally:
        log.close()


def _join() -> torch.device:
    """This rank's device, in the process group that torchrun's environment asks for."""
    cuda = torch.cuda.is_available()
    if "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if cuda else "gloo")
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def fast_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 pays: GPUs since Ampere, CPUs with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability()[0] >= 8
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def keep_freed_memory() -> None:
    """Let glibc, where there is one, keep what a step frees, as the next step needs as much again:
    to give it back and to have it zeroed anew took a seventh of a step on a CPU."""
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 32 << 20)
    mallopt(trim_threshold, 2**31 - 1)


class Trainer:
    """A model, its optimiser, its data, and where it is."""

    def __init__(self, config: TrainConfig, setup: TrainingSetup, device: torch.device) -> None:
        self.config, self.setup, self.device = config, setup, device
        self.bf16 = config.precision == "bf16" or (
            config.precision == "auto" and fast_in_bf16(device)
        )
        torch.manual_seed(config.seed)
        model = Transformer(setup.model_config)
        for first, features in zip(
            setup.vocabulary.code_starts, setup.codec.code_features(), strict=False
        ):
            model.init_code_embeddings(first, features)
        model.to(device)
        if checkpoint.world_size() > 1:
            _shard(model, device)
        self.model: nn.Module = model
        self.average = MovingAverage(model, config.average)
        self.optimizer = make_optimizer(
            model,
            name=config.optimiser,
            rate=config.rate,
            weight_decay=config.weight_decay,
            betas=(config.beta1, config.beta2),
            bf16=self.bf16,
        )
        self.step = 0
        self.state: StreamState | None = None
        self.lost = LostCount(config.max_lost)
        self.data_from = 0
        if device.type == "cuda" and config.compile:
            for block in model.blocks:
                block.compile()
        self._folder = os.path.join(config.out, "checkpoints")
        self._resume()

    def _resume(self) -> None:
        done = checkpoint.steps(self._folder)
        if not done:
            return
        facts = checkpoint.read_facts(self._folder, done[-1])
        differing = changed(facts["config"], self.config)
        if differing:
            raise TrainingError(
                f"{self.config.out} holds a training with other settings ("
                + "; ".join(differing)
                + "): go on with the same, or give another --out"
            )
        checkpoint.load(self._folder, done[-1], self.model, self.optimizer, self.average)
        self.step = int(facts["step"])
        self.state = StreamState(**facts["stream"])
        same = facts.get("data", []) == self.setup.planner.digests
        self.data_from = facts.get("data_from", 0) if same else self.step
        # Checkpoints of before have no such counts.
        self.lost.documents, self.lost.lost = facts.get("documents", 0), facts.get("lost", 0)

    def run(self, log: TrainLog) -> TrainResult:
        """Train to the last step."""
        config = self.config
        loader = Loader(
            self.setup.planner,
            self.setup.image_tokenizer,
            self.setup.planner.config,
            rank=checkpoint.rank(),
            world=checkpoint.world_size(),
            workers=config.workers,
            state=self.state,
        )
        log.start(self.step, config.steps, self.setup.describe(config))
        start, tokens, bad = time.perf_counter(), 0, 0
        self.model.train()
        meter = Meter(self.setup.vocabulary, self.setup.titles)
        batches = iter(loader)
        while self.step < config.steps:
            waited = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - waited
            log.lost(self.step + 1, self.lost.add(batch, self.device))
            self.lost.check(last=self.step + 1 == config.steps)
            facts = self._update(self.setup.encode_pictures(batch.to(self.device)), meter)
            bad = 0 if math.isfinite(facts["grad_norm"]) else bad + 1
            if bad >= config.patience:
                raise TrainingError(
                    f"the loss was no number for {bad} steps in a row, last at step "
                    f"{self.step + 1}; nothing of it was saved. Go on from step "
                    f"{(checkpoint.steps(self._folder) or [0])[-1]} with a lower --rate, or look "
                    "at the data of these steps"
                )
            self.step += 1
            self.state = loader.state
            tokens += meter.add(batch, waited)
            if self.step % config.log_every == 0 or self.step == config.steps:
                log.write(self.step, {**meter.take(), **facts, **self._position()})
            log.tick(self.step, facts["loss"], batch.tokens)
            if config.sample_every and self.step % config.sample_every == 0:
                self._sample(log)
            if self.step % config.save_every == 0 or self.step == config.steps:
                self._save()
        self._export()
        first, last = log.ends()
        return TrainResult(self.step, first, last, time.perf_counter() - start, tokens)

    def _position(self) -> dict[str, float]:
        """How far the data was read."""
        state = self.state
        assert state is not None
        return {
            "rows": state.rows,
            "epoch": round(sum(state.cursors) / self.setup.planner.size, 3),
            "too_long": state.too_long,
            "unusable": state.unusable,
            "lost": self.lost.lost,
        }

    def _update(self, batch: PackedBatch, meter: Meter) -> dict[str, float]:
        """One step of the optimiser over all micro-batches of all ranks."""
        config, world = self.config, checkpoint.world_size()
        rate = learning_rate(
            self.step, steps=config.steps, peak=config.rate, schedule=config.schedule,
            warmup=config.warmup,
        )  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Denominators of the whole window and of all ranks, before any backward pass.
        totals = torch.stack([batch.weight.sum(), batch.latent_loss.sum()]).double()
        if world > 1:
            torch.distributed.all_reduce(totals)
        weights, latents = (float(total) or 1.0 for total in totals)
        micro = batch.split(config.micro_rows) if config.micro_rows else [batch]
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        for part in micro:
            losses = self._losses(part)
            # Gradients are averaged over ranks; sums are divided by what all ranks have.
            loss = world * (
                losses.text / weights
                + config.flow_weight * losses.flow / latents
                + config.z_weight * losses.z / weights
            ) + config.balance_weight * losses.balance / len(micro)
            loss.backward()
            meter.losses(part, losses)
            sums += torch.stack([losses.text, losses.flow, losses.z, losses.balance]).detach()
        if world > 1:
            torch.distributed.all_reduce(sums)
        norm = self._clip()
        total = float(sums[0] / weights + config.flow_weight * sums[1] / latents)
        if math.isfinite(norm) and math.isfinite(total):
            self.optimizer.step()
            self.average.update(self.model, self.step)
        else:
            norm = math.nan
        return {
            "loss": total,
            "balance": float(sums[3]) / len(micro) / world,
            "grad_norm": norm,
            "rate": rate,
        }

    def _losses(self, batch: PackedBatch) -> Losses:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            losses: Losses = self.model(batch)
        return losses

    def _clip(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        full = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return float(full)

    def _save(self) -> None:
        assert self.state is not None
        facts: TrainingFacts = {
            "config": self.config.to_dict(),
            "stream": self.state.to_dict(),
            "data": self.setup.planner.digests,
            "data_from": self.data_from,
            "documents": self.lost.documents,
            "lost": self.lost.lost,
        }
        checkpoint.save(self._folder, self.step, self.model, self.optimizer, self.average, facts)

    def _export(self) -> None:
        if checkpoint.rank() == 0:
            self.setup.write_files(self.config.out)
        checkpoint.export(self.config.out, self.average, self.setup.to_dict(self.config, self.step))

    def _sample(self, log: TrainLog) -> None:
        """Draw and describe a few samples of the first source with the averaged weights."""
        from gristmill.model.unified import Unified, sample_sheet

        whole = {
            name: (value.full_tensor() if hasattr(value, "full_tensor") else value)
            for name, value in self.average.values.items()
        }
        if checkpoint.rank() == 0:
            model = Transformer(self.setup.model_config).to(self.device)
            model.load_state_dict(whole)
            sheet = sample_sheet(Unified(model.eval(), self.setup), self.setup.planner)
            if sheet is not None:
                log.samples(self.step, sheet)
        checkpoint.barrier()


def _shard(model: Transformer, device: torch.device) -> None:
    """Fully sharded data parallel, block by block; all ranks start with rank 0's weights."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    for tensor in [*model.parameters(), *model.buffers()]:
        torch.distributed.broadcast(tensor.data, 0)
    mesh = init_device_mesh(device.type, (checkpoint.world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def steps_of(config: TrainConfig, setup: TrainingSetup) -> Iterator[PackedBatch]:
    """The batches of a training, without training: for looking and for measuring."""
    planner = setup.planner
    return iter(Loader(planner, setup.image_tokenizer, planner.config, workers=config.workers))
