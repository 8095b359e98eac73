"""The trainer: one loop for every paradigm, on one process or many.

gristmill train tiny --paradigm ar --data runs/mine --codec codec.safetensors --out checkpoints/x
torchrun --nproc-per-node 8 -m gristmill.model base --data ... --out ...
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gristmill.errors import TrainingError
from gristmill.model.checkpoints import checkpoint
from gristmill.model.checkpoints.facts import TrainingFacts
from gristmill.model.checkpoints.model_folder import read_model_facts
from gristmill.model.data.dataloader import Loader
from gristmill.model.data.first_rows import LongDocuments
from gristmill.model.data.stream import StreamState
from gristmill.model.distributed.local_parts import whole
from gristmill.model.distributed.ranks import (
    all_ranks,
    barrier,
    first_rank_does,
    join,
    rank,
    world_size,
)
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.network.initial_weights import fill, fill_tower
from gristmill.model.network.transformer import Losses, Transformer, balance
from gristmill.model.training.begin_with import take_weights
from gristmill.model.training.lost_samples import LostCount
from gristmill.model.training.machine import fast_in_bf16, keep_freed_memory
from gristmill.model.training.model_parts import freeze, require_parts
from gristmill.model.training.optimizer import (
    MovingAverage,
    learning_rate,
    make_optimizer,
    set_rate,
)
from gristmill.model.training.same_inputs import input_digests, require_same_inputs
from gristmill.model.training.sample_losses import SampleLosses
from gristmill.model.training.sharding import check_replicas, materialise, shard
from gristmill.model.training.train_config import TrainConfig, changed
from gristmill.model.training.train_log import TrainLog
from gristmill.model.training.train_meter import Meter
from gristmill.model.training.training_setup import TrainingSetup, make_setup
from gristmill.stop_signals import STOPS, StopRequest, stop_requests


@dataclass(frozen=True)
class TrainResult:
    """What a training came to."""

    steps: int
    # Means over the first and the last tenth of the logged steps.
    first_loss: float
    last_loss: float
    seconds: float
    tokens: int
    # The signal that ended it before its last step; 0: none did.
    stopped_by: int = 0


def train(config: TrainConfig, log: TrainLog | None = None) -> TrainResult:
    """Train, or go on from the last whole checkpoint in `config.out`.

    Under torchrun or Ray Train every rank calls this. Raises `ConfigurationError` for settings or
    data that cannot work, `TrainingError` for a loss that is no number or a checkpoint that does
    not fit; what was committed before stays.
    """
    config.check()
    checkpoint.require_training_folder(config.out)
    device = join()
    if device.type == "cpu":
        keep_freed_memory()
    log = log or TrainLog(config.out, enabled=rank() == 0)
    if config.wandb:
        # First of all: nobody waits for a model to hear that nobody is logged in.
        first_rank_does(lambda: log.send_to(config.wandb, config.to_dict()))
    try:
        setup = make_setup(config)
        return Trainer(config, setup, device).run(log)
    finally:
        log.close()


@dataclass(frozen=True)
class StepFacts:
    """What a step over all ranks came to."""

    loss: float
    balance: float
    # NaN: the step was skipped.
    grad_norm: float
    rate: float
    # Of all ranks, without padding.
    positions: int
    # A signal that came to any rank; 0: none.
    stop: int

    def log_line(self) -> dict[str, float]:
        """The quantities of a log."""
        return {
            "loss": self.loss, "balance": self.balance, "grad_norm": self.grad_norm,
            "rate": self.rate,
        }  # fmt: skip


class Trainer:
    """A model, its optimiser, its data, and where it is."""

    def __init__(self, config: TrainConfig, setup: TrainingSetup, device: torch.device) -> None:
        self.config, self.setup, self.device = config, setup, device
        self.bf16 = config.precision == "bf16" or (
            config.precision == "auto" and fast_in_bf16(device)
        )
        self._folder = os.path.join(config.out, "checkpoints")
        torch.manual_seed(config.seed)
        model = make_model(config, setup, device, bf16=self.bf16)
        if config.init and not checkpoint.steps(self._folder):
            take_weights(model, setup, config.init, read_model_facts(config.init))
        self.model: nn.Module = model
        self.average = MovingAverage(model, config.average)
        self.optimizer = make_optimizer(
            model,
            name=config.optimiser,
            rate=config.rate,
            weight_decay=config.weight_decay,
            betas=(config.beta1, config.beta2),
            bf16=self.bf16,
            rates=config.rates,
        )
        self.step = 0
        self.state: StreamState | None = None
        self.lost = LostCount(config.max_lost)
        self._long = LongDocuments(setup.planner)
        self.sample_losses = SampleLosses(config.out, setup.vocabulary, setup.titles)
        # Step after which the shards became others, and what is said of it; 0 and "" if never.
        self.data_from, self.noted = 0, ""
        self.inputs = input_digests(setup)
        self._asked = StopRequest()
        if device.type == "cuda" and config.compile:
            compile_blocks(model)
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
        self.noted = require_same_inputs(
            facts, self.config, self.inputs, self.setup.planner.digests
        )
        checkpoint.load(self._folder, done[-1], self.model, self.optimizer, self.average.values)
        self.step = int(facts["step"])
        self.state = StreamState.from_facts(facts["stream"], self._folder)
        self.data_from = self.step if self.noted else facts["data_from"]
        # Checkpoints of before have no such counts.
        self.lost.documents, self.lost.lost = facts.get("documents", 0), facts.get("lost", 0)

    def run(self, log: TrainLog) -> TrainResult:
        """Train to the last step."""
        config = self.config
        loader = Loader(
            self.setup.planner,
            self.setup.image_tokenizer,
            self.setup.planner.config,
            rank=rank(),
            world=world_size(),
            workers=config.workers,
            state=self.state,
        )
        log.start(self.step, config.steps, self.setup.describe(config))
        if self.noted:
            log.note(self.step, self.noted)
        self.sample_losses.begin(self.step)
        start, tokens, bad = time.perf_counter(), 0, 0
        self.model.train()
        meter = Meter(self.setup.vocabulary, self.setup.titles)
        stopped = 0
        with closing(iter(loader)) as batches, stop_requests() as self._asked:
            while self.step < config.steps and not stopped:
                waited = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - waited
                log.lost(self.step + 1, self.lost.add(batch, self.device))
                self.lost.check(last=self.step + 1 == config.steps)
                facts = self._update(self.setup.encode_pictures(batch.to(self.device)), meter)
                bad = 0 if math.isfinite(facts.grad_norm) else bad + 1
                if bad >= config.patience:
                    self._give_up(bad)
                self.step += 1
                self.state = loader.state
                tokens += facts.positions
                meter.add(facts.positions, waited)
                stopped = facts.stop if self.step < config.steps else 0
                self._tell(log, meter, facts, stopped)
        if not stopped:
            self._export()
        first, last = log.ends()
        seconds = time.perf_counter() - start
        return TrainResult(self.step, first, last, seconds, tokens, stopped)

    def _tell(self, log: TrainLog, meter: Meter, facts: StepFacts, stopped: int) -> None:
        """Log, draw and save what is due after a step."""
        config, last = self.config, self.step == self.config.steps
        if self.step % config.log_every == 0 or last:
            state = self._whole_state()
            log.write(self.step, {**meter.take(), **facts.log_line(), **self._position(state)})
            if log.enabled and (said := self._long.told(state)):
                log.note(self.step, said)
        log.tick(self.step, facts.loss, facts.positions)
        if config.sample_every and self.step % config.sample_every == 0:
            self._sample(log)
        if self.step % config.save_every == 0 or last or stopped:
            self._save()
        if stopped:
            log.stopped(self.step, signal.Signals(stopped).name)

    def _give_up(self, bad: int) -> None:
        raise TrainingError(
            f"the loss was no number for {bad} steps in a row, last at step {self.step + 1}; "
            f"nothing of it was saved. Go on from step "
            f"{(checkpoint.steps(self._folder) or [0])[-1]} with a lower --rate, or look at the "
            "data of these steps"
        )

    def _position(self, state: StreamState) -> dict[str, float]:
        """How far the data was read."""
        return {
            "rows": state.rows,
            "epoch": round(state.read / self.setup.planner.size, 3),
            "too_long": state.too_long,
            "windowed": state.windowed,
            "unusable": state.unusable,
            "lost": self.lost.lost,
            "data_from": self.data_from,
        }

    def _update(self, batch: PackedBatch, meter: Meter) -> StepFacts:
        """One step of the optimiser over all micro-batches of all ranks."""
        config, world = self.config, world_size()
        rate = learning_rate(
            self.step, steps=config.steps, peak=config.rate, schedule=config.schedule,
            warmup=config.warmup,
        )  # fmt: skip
        set_rate(self.optimizer, rate)
        # Denominators of the whole window and of all ranks, before any backward pass.
        totals = torch.stack([batch.weight.sum(), batch.latent_loss.sum(), (batch.doc >= 0).sum()])
        totals = all_ranks(totals.double())
        weights, latents, positions = (float(total) or 1.0 for total in totals)
        micro = batch.split(config.micro_rows) if config.micro_rows else [batch]
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        self.optimizer.zero_grad(set_to_none=True)
        for part in micro:
            losses = self._losses(part)
            even = balance(all_ranks(losses.routed), losses.shares, positions)
            # Gradients are averaged over ranks; sums are divided by what all ranks have.
            loss = world * (
                losses.text / weights
                + config.flow_weight * losses.flow / latents
                + config.z_weight * losses.z / weights
                + config.balance_weight * even
            )
            loss.backward()
            meter.losses(part, losses)
            if config.sample_losses:
                self.sample_losses.add(self.step + 1, part, losses)
            sums += torch.stack([losses.text, losses.flow, losses.z, even]).detach()
        asked = [float(self._asked.number == number) for number in STOPS]
        text, flow, _, uneven, *asked = all_ranks(
            torch.cat([sums, sums.new_tensor(asked)])
        ).tolist()
        norm = self._clip()
        total = text / weights + config.flow_weight * flow / latents
        if math.isfinite(norm) and math.isfinite(total):
            self.optimizer.step()
            self.average.update(self.model, self.step)
        else:
            norm = math.nan
        stop = next((number for number, said in zip(STOPS, asked, strict=True) if said), 0)
        return StepFacts(total, uneven, norm, rate, int(totals[2]), stop)

    def _losses(self, batch: PackedBatch) -> Losses:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            losses: Losses = self.model(batch)
        return losses

    def _clip(self) -> float:
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        full = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return float(full)

    def _whole_state(self) -> StreamState:
        """Where the data of all ranks is. All ranks call."""
        assert self.state is not None
        lanes = range(rank(), len(self.state.lanes), world_size())
        return self.state.whole(lanes, self.device)

    def _save(self) -> None:
        facts: TrainingFacts = {
            "config": self.config.to_dict(),
            "stream": self._whole_state().to_dict(),
            "inputs": self.inputs,
            "data": self.setup.planner.digests,
            "data_from": self.data_from,
            "documents": self.lost.documents,
            "lost": self.lost.lost,
        }
        self.sample_losses.write()
        checkpoint.save(
            self._folder, self.step, self.model, self.optimizer, self.average.values, facts
        )

    def _export(self) -> None:
        first_rank_does(lambda: self.setup.write_files(self.config.out))
        facts = self.setup.to_dict(self.config, self.step)
        checkpoint.export(self.config.out, self.average.weights(self.model), facts)

    @torch.no_grad()
    def _sample(self, log: TrainLog) -> None:
        """Draw and describe a few samples of the first source with the averaged weights, which one
        rank alone has whole for it."""
        from gristmill.model.sampling.unified import Unified, sample_sheet

        model = None
        if rank() == 0:
            with torch.device("meta"):
                model = Transformer(self.setup.model_config)
            materialise(model, self.device)
        # Buffers of a vision tower are among them.
        there = model.state_dict() if model is not None else {}
        for name, value in self.average.weights(self.model).items():
            value = whole(value)
            if model is not None:
                there[name].copy_(value)
        if model is not None:
            sheet = sample_sheet(Unified(model.eval(), self.setup), self.setup.planner)
            if sheet is not None:
                log.samples(self.step, sheet)
        barrier()


def make_model(
    config: TrainConfig, setup: TrainingSetup, device: torch.device, *, bf16: bool
) -> Transformer:
    """The untrained model, its weights the same for any number of ranks; no rank has more than its
    part, and one parameter at a time."""
    with torch.device("meta"):
        model = Transformer(setup.model_config)
    if setup.encoder_weights is not None:
        model.vision.requires_grad_(config.train_encoder)
    freeze(model, config.freeze)
    require_parts(model, config.rates, "rates")
    check_replicas(config.replicate, world_size())
    if world_size() > 1:
        shard(model, device, replicate=config.replicate, bf16=bf16)
    materialise(model, device)
    features = setup.codec.code_features()
    fill(model, config.seed, list(zip(setup.vocabulary.code_starts, features, strict=False)))
    if setup.encoder_weights is not None:
        fill_tower(model.vision, setup.encoder_weights)
    return model


def compile_blocks(model: Transformer, **options: Any) -> None:
    """Compile what each block computes. What FSDP does before and after a block stays outside: it
    would break the graph."""
    for block in model.blocks:
        block.forward = torch.compile(block.forward, **options)


def steps_of(config: TrainConfig, setup: TrainingSetup) -> Iterator[PackedBatch]:
    """The batches of a training, without training: for looking and for measuring."""
    planner = setup.planner
    return iter(Loader(planner, setup.image_tokenizer, planner.config, workers=config.workers))
