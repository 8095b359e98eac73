"""Checkpoints: whole or not at all, for any number of ranks; and the files that a model is."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from gristmill.errors import TrainingError
from gristmill.model.checkpoints.facts import CheckpointFacts, ModelFacts, TrainingFacts
from gristmill.model.checkpoints.tensor_files import write_tensors
from gristmill.model.distributed.ranks import barrier, first_rank_does, rank
from gristmill.pipelines.out_folder import require_own, require_writable

FORMAT = 2
"""Of checkpoints and of exported models."""
MODEL_FILE, CODEC_FILE = "model.json", "codec.safetensors"
# What tells a training's folder from others, and what of ours may lie in one before it starts.
_MARKS = (MODEL_FILE, "checkpoints", "log.jsonl")
_BESIDE = (
    CODEC_FILE, "trained-codec.safetensors", "tokenizer.json", "tokenizer.json.partial",
    "made-of.json", "tensorboard", "ray-train", "lost.jsonl",
)  # fmt: skip


def require_training_folder(folder: str) -> None:
    """Raise `ConfigurationError` if a training cannot write into the folder, or would write over
    something that is none."""
    require_own(folder, what="training", marks=_MARKS, beside=_BESIDE)
    require_writable(folder, what="training")


def _state(
    model: nn.Module, optimizer: torch.optim.Optimizer, averages: Mapping[str, Tensor]
) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments, "average": averages}


def save(
    folder: str,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor],
    facts: TrainingFacts,
    *,
    keep: int = 2,
) -> str:
    """Write `folder/step-N`; it appears with its name only when it is whole. All ranks call."""
    from torch.distributed.checkpoint.state_dict_saver import save as save_state

    final = os.path.join(folder, f"step-{step:08d}")
    partial = final + ".partial"
    if rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(partial)
    barrier()
    with _alone():
        save_state(_state(model, optimizer, averages), checkpoint_id=partial)
    barrier()
    if rank() == 0:
        whole: CheckpointFacts = {"format": FORMAT, "step": step, **facts}
        with open(os.path.join(partial, "state.json"), "w", encoding="utf-8") as file:
            json.dump(whole, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
        for old in steps(folder)[:-keep]:
            shutil.rmtree(os.path.join(folder, f"step-{old:08d}"), ignore_errors=True)
    barrier()
    return final


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """DCP warns when it finds no process group; one process needs none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def steps(folder: str) -> list[int]:
    """Steps of the whole checkpoints in a folder, ascending."""
    if not os.path.isdir(folder):
        return []
    found = []
    for name in os.listdir(folder):
        number = name.removeprefix("step-")
        if number.isdigit() and os.path.exists(os.path.join(folder, name, "state.json")):
            found.append(int(number))
    return sorted(found)


def read_facts(folder: str, step: int) -> CheckpointFacts:
    """What a checkpoint says of itself: its step, the settings, and where the data was."""
    path = os.path.join(folder, f"step-{step:08d}", "state.json")
    with open(path, encoding="utf-8") as file:
        facts = cast(CheckpointFacts, json.load(file))
    require_format(facts["format"], path)
    return facts


def require_format(found: int, path: str) -> None:
    """Raise `TrainingError` for what another version of gristmill wrote."""
    if found != FORMAT:
        when = "an earlier" if found < FORMAT else "a later"
        raise TrainingError(
            f"{path} has format {found}, of {when} version of gristmill, this one has {FORMAT}: "
            "use it with the version that wrote it, or run the same `gristmill train` into another "
            "--out to have it again"
        )


def load(
    folder: str,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averages: Mapping[str, Tensor],
) -> None:
    """Bring weights, moments and averages back in place. Raises `TrainingError` for a checkpoint of
    another shape or a broken one."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load as load_state

    path = os.path.join(folder, f"step-{step:08d}")
    state = _state(model, optimizer, averages)
    try:
        with _alone():
            load_state(state, checkpoint_id=path)
    except (Exception, CheckpointException) as error:
        raise TrainingError(
            f"checkpoint {path} cannot be loaded into this model: {_first_line(error)}; it is "
            "broken or of another shape: remove it to go on from the one before, or train into "
            "another --out"
        ) from error
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def export(folder: str, weights: Mapping[str, Tensor], facts: ModelFacts) -> None:
    """Write model.safetensors and model.json: the averaged weights, for sampling. All ranks
    call."""
    shapes = {name: (value.shape, value.dtype) for name, value in weights.items()}
    write_tensors(folder, shapes, weights.items())
    first_rank_does(lambda: write_json(os.path.join(folder, MODEL_FILE), facts))


def write_json(path: str, value: Mapping[str, object]) -> None:
    """Write a file whole or not at all."""
    with open(path + ".partial", "w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
    os.replace(path + ".partial", path)
