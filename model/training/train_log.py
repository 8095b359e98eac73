"""What a training says: one JSON line per logged step, TensorBoard, Weights & Biases if asked for,
and a line for a person every few seconds."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from gristmill.model.documents.batch import LostSample
from gristmill.model.training.facts import LogLine, LostLine, TrainingSummary
from gristmill.model.training.wandb_run import WandbRun
from gristmill.pipelines.decode import Image

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch.utils.tensorboard.writer import SummaryWriter

LOST_FILE = "lost.jsonl"
# A person gets a line at most this often, and one for so many samples that cannot be read.
_EVERY_S = 5.0
_TOLD_LOST = 10


class TrainLog:
    """Writes `log.jsonl` and `tensorboard/` below a folder, and lines to a person."""

    def __init__(self, folder: str, *, enabled: bool = True, quiet: bool = False) -> None:
        self.folder, self.enabled, self.quiet = folder, enabled, quiet
        self._path = os.path.join(folder, "log.jsonl")
        self._lost_path = os.path.join(folder, LOST_FILE)
        # Samples that could not be read, of which a person was told.
        self._told_lost = 0
        self._board: SummaryWriter | None = None
        self._wandb: WandbRun | None = None
        self._progress: Progress | None = None
        self._parts = ""
        self._steps = self._first = self._positions = 0
        self._began = self._told = 0.0
        self._flops = self._peak = 0.0

    def send_to(self, project: str, config: Mapping[str, object]) -> None:
        """Write to a project at Weights & Biases, too; see `WandbRun.open`."""
        self._wandb = WandbRun.open(project, self.folder, config)

    def start(self, step: int, steps: int, facts: TrainingSummary) -> None:
        """Open the files. Lines after `step` are of work that was lost, and go."""
        self._steps, self._first, self._positions = steps, step, 0
        self._began = self._told = time.monotonic()
        self._flops, self._peak = facts["flops_per_token"], facts["peak_flops"]
        if not self.enabled:
            return
        os.makedirs(self.folder, exist_ok=True)
        kept = [line for line in read_log(self.folder) if (line["step"] or 0) <= step]
        _rewrite(self._path, kept)
        if os.path.exists(self._lost_path):
            _rewrite(
                self._lost_path, [one for one in read_lost(self.folder) if one["step"] <= step]
            )
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(os.path.join(self.folder, "tensorboard"), purge_step=step + 1)
        if not self.quiet:
            self._say(facts["summary"] + (f"; goes on from step {step:,}" if step else ""))
            self._open_progress(step, steps)

    def _say(self, text: str) -> None:
        from rich.console import Console

        Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)

    def _open_progress(self, step: int, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        console = Console(stderr=True)
        if not console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), Remaining(),
            TextColumn("{task.fields[facts]}"), console=console,
        )  # fmt: skip
        self._progress.start()
        self._task = self._progress.add_task("train", total=steps, completed=step, facts="")

    def write(self, step: int, facts: dict[str, float]) -> None:
        """One line."""
        if not self.enabled:
            return
        if self._peak:
            facts["mfu"] = facts["tokens_per_s"] * self._flops / self._peak
        plain = {name: _rounded(value) for name, value in facts.items()}
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **plain}) + "\n")
        for name, value in plain.items():
            if value is not None and self._board is not None:
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.write(step, {k: v for k, v in plain.items() if v is not None})
        self._parts = ", ".join(
            f"{name.removeprefix('loss_')} {facts[name]:.3f}"
            for name in ("loss_text", "loss_codes", "loss_flow")
            if name in facts
        )

    def lost(self, step: int, samples: Sequence[LostSample]) -> None:
        """Samples that a step went without, one line each; a person is told of the first few."""
        if not self.enabled or not samples:
            return
        with open(self._lost_path, "a", encoding="utf-8") as file:
            file.writelines(
                json.dumps({"step": step, **dataclasses.asdict(one)}) + "\n" for one in samples
            )
        for one in samples:
            self._told_lost += 1
            if self._told_lost <= _TOLD_LOST and not self.quiet:
                more = f"; more are named in {self._lost_path} alone"
                self._say(
                    f"step {step:,}: {one.key} of {one.shard} is left out: {one.reason}"
                    + (more if self._told_lost == _TOLD_LOST else "")
                )

    def note(self, step: int, text: str) -> None:
        """A sentence that a person and TensorBoard get."""
        if not self.enabled:
            return
        if self._board is not None:
            self._board.add_text("notes", text, step)
        if not self.quiet:
            self._say(f"step {step:,}: {text}")

    def tick(self, step: int, loss: float, positions: int) -> None:
        """A step of so many positions is done: move the bar, or say so if it is time to."""
        if not self.enabled or self.quiet:
            return
        self._positions += positions
        now = time.monotonic()
        rate = self._positions / max(1e-9, now - self._began)
        parts = f" ({self._parts})" if self._parts else ""
        said = f"loss {loss:.3f}{parts}, {rate:,.0f} positions/s"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, facts=said)
        elif step == self._steps or now - self._told > _EVERY_S:
            self._told = now
            left = (now - self._began) / (step - self._first) * (self._steps - step)
            end = f", {_duration(left)} left" if step < self._steps else ""
            self._say(f"step {step:,} of {self._steps:,}: {said}{end}")

    def samples(self, step: int, picture: Image) -> None:
        """A sheet of samples, uint8 RGB."""
        from gristmill.model.sampling.contact_sheet import write_picture

        folder = os.path.join(self.folder, "samples")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"step-{step:08d}.png")
        write_picture(path, picture)
        if not self.quiet:
            self._say(f"step {step:,}: what it draws and says now: {path}")
        if self._board is not None:
            self._board.add_image("samples", picture, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.samples(step, picture)

    def stopped(self, step: int, name: str) -> None:
        """A signal of that name ended the training after a step."""
        if self.enabled and not self.quiet:
            self._say(
                f"step {step:,} of {self._steps:,}: {name} came; a checkpoint is written, and the "
                "same command goes on from it"
            )

    def ends(self) -> tuple[float, float]:
        """Mean loss of the first and the last tenth of the lines."""
        losses = [line["loss"] for line in read_log(self.folder) if line["loss"] is not None]
        if not losses:
            return math.nan, math.nan
        tenth = max(1, len(losses) // 10)
        return float(np.mean(losses[:tenth])), float(np.mean(losses[-tenth:]))

    def close(self) -> None:
        """Close the files."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.close()
        if self._progress is not None:
            self._progress.stop()


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = whole // 60
    return (
        f"{minutes} min {whole % 60:02d} s"
        if minutes < 60
        else (f"{minutes // 60} h {minutes % 60:02d} min")
    )


def _rounded(value: float) -> float | None:
    """JSON knows no NaN. Counts stay whole."""
    if not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.7g}")


def _rewrite(path: str, lines: Sequence[LogLine | LostLine]) -> None:
    with open(path + ".partial", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    os.replace(path + ".partial", path)


def read_log(folder: str) -> list[LogLine]:
    """The lines of a training's log; a last line that was cut off is left out."""
    return cast(list[LogLine], _lines(os.path.join(folder, "log.jsonl")))


def read_lost(folder: str) -> list[LostLine]:
    """The samples that a training could not read, step by step."""
    return cast(list[LostLine], _lines(os.path.join(folder, LOST_FILE)))


def _lines(path: str) -> list[dict[str, object]]:
    if not os.path.exists(path):
        return []
    lines = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return lines
