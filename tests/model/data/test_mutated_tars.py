"""Tars whose members, or whose own bytes, were damaged at a seeded rate: what can be learnt is
learnt, the rest has its reason, and nothing else is ever raised."""

from __future__ import annotations

import dataclasses
import io
import itertools
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from foreign_tars import Members, damaged, members_of, write_tar
from model_world import World

from gristmill.errors import SampleError, ShardError
from gristmill.model.data.shard_sources import DataSource, open_samples
from gristmill.model.data.tar_samples import TarSamples
from gristmill.model.training.train import steps_of
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.training_setup import make_setup


@pytest.fixture(scope="module")
def members(world: World) -> Members:
    """48 pictures and captions."""
    return members_of(world.plain)[0][:96]


@pytest.mark.parametrize("seed", range(16))
def test_damaged_members_have_their_reason(members: Members, tmp_path: Path, seed: int) -> None:
    write_tar(tmp_path / "a.tar", damaged(members, random.Random(seed), 0.3))
    samples = open_samples(DataSource(url=str(tmp_path)))
    assert isinstance(samples, TarSamples)
    read = 0
    for row, fault in enumerate(samples.table(0)["fault"].to_pylist()):
        try:
            assert samples.picture(0, row).shape[2] == 3
            read += fault is None
        except SampleError as error:
            assert len(str(error)) < 60
    # A caption in three is damaged, or its picture, or what they are named by.
    assert read > 12


@pytest.mark.parametrize("seed", range(4))
def test_batches_are_made_of_what_is_left(
    config: Callable[..., TrainConfig], members: Members, tmp_path: Path, seed: int
) -> None:
    write_tar(tmp_path / "a" / "a.tar", damaged(members, random.Random(seed), 0.3))
    source = DataSource(url=str(tmp_path / "a"), tasks={"draw": 0.4, "describe": 0.4, "edit": 0.2})
    made = config(data=(source,))
    first, second = (list(itertools.islice(steps_of(made, make_setup(made)), 4)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert (one.ids == other.ids).all() and one.lost == other.lost
    lost = {sample.key for batch in first for sample in batch.lost}
    assert lost and all(dataclasses.astuple(s)[2] for batch in first for s in batch.lost)


@pytest.mark.parametrize("seed", range(24))
def test_a_tar_of_which_bytes_are_wrong_is_read_or_named(
    members: Members, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    path = tmp_path / "a.tar"
    write_tar(path, members[:20])
    data = bytearray(path.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as tar:
        headers = [member.offset for member in tar]
    for _ in range(rng.randint(1, 4)):
        # In a header as often as anywhere.
        at = rng.choice(headers) + rng.randrange(512) if seed % 2 else rng.randrange(len(data))
        data[at] = rng.randrange(256)
    path.write_bytes(data[: rng.randrange(len(data))] if seed % 3 == 0 else data)
    try:
        samples = open_samples(DataSource(url=str(tmp_path)))
    except ShardError as error:
        assert "a.tar is not a whole tar" in str(error) or "no sample" in str(error)
        return
    for row in range(samples.counts()[0]):
        try:
            samples.picture(0, row)
        except SampleError as error:
            assert str(error)
