"""All settings of a training, as one value that a checkpoint keeps."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gristmill.errors import ConfigurationError, require_known
from gristmill.model.data.planner import CAPTIONS
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.documents.paradigms import PARADIGMS
from gristmill.model.documents.tasks import TASKS
from gristmill.model.documents.vocabulary import SIDES
from gristmill.model.encoders.load import check_encoder
from gristmill.model.network.configurations import SIZES
from gristmill.model.network.model_config import EXPERTS
from gristmill.model.training.optimizer import OPTIMISERS, SCHEDULES

SAME = "same"
"""`size` of the model that training begins with."""
PRECISIONS = ("auto", "bf16", "fp32")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What `train` takes. Rates are those of AdamW; lengths are positions."""

    out: str
    data: tuple[DataSource, ...]
    # Image codec: a file of `gristmill train-codec`. Encoder: see
    # `encoders.load.load_encoder`.
    codec: str
    encoder: str = ""
    # Whether the encoder learns, too; else it stays as it is.
    train_encoder: bool = False
    # A `tokenizers` file; empty: one is trained on the captions.
    tokenizer: str = ""
    text_vocabulary: int = 512
    size: str = "tiny"
    # Folder of a model whose weights this one begins with; nothing else of it is gone on with.
    init: str = ""
    paradigm: str = "ar"
    experts: str = "dense"
    steps: int = 1000
    rows_per_step: int = 32
    row_length: int = 128
    # Most places of codes or latents of one picture, which is made smaller, at its own ratio, to
    # have no more; 0: those of the square that the codec was trained on.
    patches: int = 0
    # Rows in one forward pass; 0: all of a rank's at once. More passes are accumulated.
    micro_rows: int = 0
    # Whole copies of the weights, each shared out over world / replicate ranks (HSDP).
    replicate: int = 1
    rate: float = 3e-3
    # Parts of the model, by how the names of their parameters begin: those that do not learn, and
    # factors of the rate of others.
    freeze: tuple[str, ...] = ()
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    schedule: str = "cosine"
    warmup: int = 50
    optimiser: str = "adamw"
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0
    average: float = 0.998
    # Weight of flows against text.
    flow_weight: float = 6.0
    z_weight: float = 1e-4
    balance_weight: float = 1e-2
    # Shares of documents that draw with nothing said, and with no earlier picture shown besides.
    guidance_dropout: float = 0.1
    picture_dropout: float = 0.05
    # Which of several captions of a sample are learnt; see `StreamConfig`.
    captions: str = "all"
    latents_per_query: int = 4
    # Where the places of a picture stand; see `DocumentLayout`.
    picture_positions: str = "grid"
    time_mean: float = 0.0
    # Above 1: towards noise, where what is where is decided; a large object is plain to see through
    # little noise.
    time_shift: float = 4.0
    text_block: int = 24
    # Weight of text that is learnt, against that of pictures.
    text_weight: float = 3.0
    # Power by which rare image codes count more.
    code_balance: float = 0.5
    seed: int = 0
    # bf16 where the machine is fast in it.
    precision: str = "auto"
    compile: bool = True
    workers: int = 0
    cache_mb: float = 256.0
    save_every: int = 500
    log_every: int = 10
    # Steps between pictures drawn and captions written while training; 0: none.
    sample_every: int = 0
    # Project at Weights & Biases, or ENTITY/PROJECT, that gets the curve, too; empty: none.
    wandb: str = ""
    # Keep the loss of every sample of every step; see `sample_losses`.
    sample_losses: bool = False
    # Steps in a row whose loss may be no number before training gives up.
    patience: int = 3
    # Go on though the shards are not those that were there before the stop.
    accept_changed_data: bool = False
    # Share of documents whose sample may turn out not to be readable before training stops.
    max_lost: float = 0.05
    # Dense peak of one device in operations a second, for MFU; 0: unknown.
    peak_flops: float = 0.0

    def check(self) -> None:
        """Raise `ConfigurationError` for what cannot be trained."""
        choices: dict[str, Iterable[str]] = {
            "size": (*SIZES, SAME), "paradigm": PARADIGMS, "experts": EXPERTS,
            "schedule": SCHEDULES, "optimiser": OPTIMISERS, "precision": PRECISIONS,
            "captions": CAPTIONS,
        }  # fmt: skip
        for name, known in choices.items():
            require_known(name, getattr(self, name), known)
        for name in ("steps", "rows_per_step", "row_length", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0 <= self.patches <= SIDES**2:
            raise ConfigurationError(
                f"patches is {self.patches}; it is the most places of a picture, 1 to {SIDES**2}"
            )
        for name in ("max_lost", "guidance_dropout", "picture_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it is a share, 0 to 1")
        if self.size == SAME and not self.init:
            raise ConfigurationError(f"size {SAME} is that of --init FOLDER, which is not given")
        for part, factor in self.rates.items():
            if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
                raise ConfigurationError(
                    f"rates: {part} has {factor!r}; it is a factor of the rate, e.g. "
                    "rates={lm: 0.1}; parts that do not learn belong into freeze"
                )
        if not self.data:
            raise ConfigurationError("no data: give at least one shard set (--data RUN)")
        for source in self.data:
            for task in source.tasks:
                require_known("task", task, TASKS)
        if self.encoder:
            check_encoder(self.encoder)

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`."""
        data = tuple(DataSource(**source) for source in values["data"])
        freeze = tuple(values.get("freeze", ()))
        return cls(**{**values, "data": data, "freeze": freeze})


# What may differ between a training and its continuation.
FREE = (
    "out", "steps", "micro_rows", "replicate", "workers", "cache_mb", "save_every", "log_every",
    "sample_every", "sample_losses", "wandb", "compile", "peak_flops", "patience", "max_lost",
    "accept_changed_data",
    # What these are is told by their digests, wherever they lie.
    "codec", "encoder", "tokenizer",
)  # fmt: skip


def changed(old: Mapping[str, object], new: TrainConfig) -> list[str]:
    """Settings that differ and must not, one line each."""
    # What a checkpoint keeps went through JSON, where tuples are lists.
    now = json.loads(json.dumps(new.to_dict()))
    # Fields that it did not have yet were as they are by default.
    old = json.loads(json.dumps(TrainConfig.from_dict(dict(old)).to_dict()))
    lines = []
    for name, value in now.items():
        before = old.get(name)
        if name not in FREE and before != value:
            lines.append(f"{name}: {before!r} -> {value!r}")
    return lines
