"""Trainings over tars of others of which one member in a hundred is corrupt.

    python benchmarks/fuzz_training.py [--seeds 20] [--share 0.01] [--steps 6]

Pictures cut, emptied or overwritten, texts that are none, odd JSON, forgotten, doubled and renamed
members (tests/foreign_tars.py, which the tests share), by a seed. Of each seed must hold: the
training ends; what it lost is counted in the log and named in lost.jsonl by shard, key and reason;
gone on with from a checkpoint it has the same curve, the same losses and the same weights; two
ranks read the rows that one reads. With an even seed only pictures are corrupt, and then everything
else is read where it was read without them. Where a tar ends early too (every fifth seed), the
training is refused in words that name it, before its first step. A seed that fails is named.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import itertools
import random
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from foreign_tars import Members, members_of, mutated, spoilt_picture, write_tars
from model_world import World, make_world

from gristmill.errors import ShardError
from gristmill.model.data.dataloader import Loader
from gristmill.model.data.shard_sources import DataSource
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.training.train import train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog, read_log, read_lost
from gristmill.model.training.training_setup import make_setup

ROWS, BATCHES = 12, 4
# Beside weights and optimiser, what a training goes on with.
KEPT = ("log.jsonl", "lost.jsonl")


def corrupt(tars: list[Members], rng: random.Random, share: float, pictures: bool) -> list[Members]:
    """So many members of all tars are corrupt, no more and no fewer."""
    names = [name for name, _ in itertools.chain(*tars) if not pictures or name.endswith(".jpg")]
    members = sum(map(len, tars))
    struck = set(rng.sample(names, max(1, round(members * share))))
    change = spoilt_picture if pictures else mutated
    return [
        [new for name, data in members
         for new in (change(name, data, rng) if name in struck else [(name, data)])]
        for members in tars
    ]  # fmt: skip


def configure(world: World, url: str, out: Path, steps: int, tokenizer: str = "") -> TrainConfig:
    """A training of seconds that reads pixels and captions."""
    source = DataSource(url=url, tasks={"draw": 0.5, "describe": 0.5})
    return world.config(
        out, data=(source,), rows_per_step=ROWS, steps=steps, save_every=steps // 2,
        tokenizer=tokenizer,
    )  # fmt: skip


def batches(config: TrainConfig, rank: int = 0, ranks: int = 1) -> list[PackedBatch]:
    """The first batches of a rank."""
    setup = make_setup(config)
    loader = Loader(
        setup.planner, setup.image_tokenizer, setup.planner.config, rank=rank, world=ranks
    )
    return list(itertools.islice(iter(loader), BATCHES))


def check_training(config: TrainConfig) -> int:
    """It ends, says what it lost, and goes on exactly; returns how many documents were lost."""
    train(config, TrainLog(config.out, quiet=True))
    lines, lost = read_log(config.out), read_lost(config.out)
    assert lines[-1]["step"] == config.steps, "it did not come to its end"
    assert lines[-1]["lost"] == len(lost), "counted otherwise than named"
    assert all(line["shard"] and line["key"] and line["reason"] for line in lost), lost
    again = dataclasses.replace(config, out=config.out + "-again")
    half = f"checkpoints/step-{config.steps // 2:08d}"
    shutil.copytree(f"{config.out}/{half}", f"{again.out}/{half}")
    for name in KEPT:
        if Path(config.out, name).exists():
            shutil.copy(f"{config.out}/{name}", again.out)
    train(again, TrainLog(again.out, quiet=True))
    curve, other = (
        [(line["loss"], line["grad_norm"], line["lost"]) for line in read_log(folder)]
        for folder in (config.out, again.out)
    )
    assert curve == other, "the curve is another after a stop"
    assert read_lost(again.out) == lost, "other losses after a stop"
    name = "model.safetensors"
    assert Path(config.out, name).read_bytes() == Path(again.out, name).read_bytes()
    return len(lost)


def check_order(config: TrainConfig, sound: list[PackedBatch], pictures: bool) -> None:
    """The same rows on one rank and two; beside sound tars only what is lost differs."""
    alone = batches(config)
    shares = [batches(config, rank, 2) for rank in range(2)]
    for step, batch in enumerate(alone):
        for row in range(ROWS):
            share = shares[row % 2][step]
            assert torch.equal(share.ids[row // 2], batch.ids[row]), "ranks read other rows"
        named = sorted(one.key for share in shares for one in share[step].lost)
        assert named == sorted(one.key for one in batch.lost), "ranks lose other samples"
        if pictures:
            before = sound[step]
            assert torch.equal(before.doc, batch.doc), "other documents beside a corrupt picture"
            differing = before.ids != batch.ids
            assert (batch.weight[differing] == 0).all(), "learnt from a corrupt picture"


def check_cut(world: World, tars: list[Members], folder: Path, steps: int) -> None:
    """A tar that ends early is named before anything is learnt."""
    url = write_tars(folder / "cut", tars)
    last = sorted(Path(url).glob("*.tar"))[-1]
    last.write_bytes(last.read_bytes()[:-12_000])
    config = configure(world, url, folder / "cut-out", steps)
    try:
        train(config, TrainLog(config.out, quiet=True))
    except ShardError as error:
        assert str(last) in str(error) and "not a whole tar" in str(error), error
        assert not read_log(config.out)
        return
    raise AssertionError("a tar that ends early was taken for whole")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    counts: collections.Counter[str] = collections.Counter()
    failed = lost = 0
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "world"
        home.mkdir()
        world = make_world(home)
        tars = members_of(world.plain)
        url = write_tars(Path(name) / "sound", tars)
        first = configure(world, url, Path(name) / "sound-out", options.steps)
        sound = batches(first)
        # One for all: another would be made of the captions that are left.
        tokenizer = f"{first.out}/tokenizer.json"
        for seed in range(options.first, options.first + options.seeds):
            folder, pictures = Path(name) / str(seed), seed % 2 == 0
            changed = corrupt(tars, random.Random(seed), options.share, pictures)
            url = write_tars(folder / "tars", changed)
            config = configure(world, url, folder / "out", options.steps, tokenizer)
            try:
                check_order(config, sound, pictures)
                lost += check_training(config)
                counts.update(line["reason"] for line in read_lost(config.out))
                if seed % 5 == 0:
                    check_cut(world, tars, folder, options.steps)
            except Exception:
                failed += 1
                print(f"seed {seed}:\n{traceback.format_exc(limit=-4)}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    for reason, count in counts.most_common():
        print(f"{count:6} {reason}")
    print(f"{failed} of {options.seeds} seeds failed; {lost} documents were lost")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
