"""One sample that cannot be read ends no training: it learns nothing, all else is as it was."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from foreign_tars import Members, members_of, write_tars
from model_world import World, planned
from pyarrow.parquet import ParquetFile
from shape_shards import build_documents, build_shapes

from gristmill.errors import (
    ConfigurationError,
    SampleError,
    ShardError,
    StorageError,
    TrainingError,
)
from gristmill.model.data.shard_sources import DataSource, open_samples, spread_places
from gristmill.model.documents.batch import PackedBatch
from gristmill.model.documents.segments import ImageSegment
from gristmill.model.training.sample_history import sightings
from gristmill.model.training.settings import picture_views
from gristmill.model.training.train import steps_of, train
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.train_log import TrainLog, read_log, read_lost
from gristmill.model.training.training_setup import caption_texts, make_setup
from gristmill.pipelines.patience import PATIENCE
from gristmill.pipelines.schema import digest_fields
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.shards.reader import FORGOTTEN
from gristmill.pipelines.storage import Folder

Make = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def tars(world: World) -> list[Members]:
    """200 pictures and captions in tars of 64."""
    return members_of(world.plain)


def _config(config: Make, url: str, out: str = "", **changes: object) -> TrainConfig:
    source = DataSource(url=url, tasks={"draw": 0.5, "describe": 0.5})
    made = config(data=(source,), **changes)
    return dataclasses.replace(made, out=made.out + out)


def _train(config: TrainConfig) -> None:
    train(config, TrainLog(config.out, quiet=True))


def _curve(folder: str) -> list[tuple[float | None, ...]]:
    return [tuple(line[n] for n in ("loss", "grad_norm", "lost")) for line in read_log(folder)]


def _batches(config: TrainConfig, count: int) -> list[PackedBatch]:
    return list(itertools.islice(steps_of(config, make_setup(config)), count))


def _damaged(tars: list[Members]) -> dict[str, Members | None]:
    """Two samples in a hundred: bytes that are no picture, a picture cut in half, a member that
    was forgotten, an odd type."""
    files = dict(itertools.chain(*tars))
    return {
        "0007.jpg": [("0007.jpg", b"not a picture at all")],
        "0080.jpg": [("0080.jpg", files["0080.jpg"][: len(files["0080.jpg"]) // 2])],
        "0111.jpg": None,
        "0150.txt": [("0150.json", b'{"caption": {"en": "a dog"}}')],
    }


LOST = {
    "0007": "picture does not decode", "0080": "picture ends early", "0111": "no image member",
    "0150": "caption is no text",
}  # fmt: skip


def test_a_training_over_damaged_members_ends_and_counts_them(
    config: Make, tars: list[Members], tmp_path: Path
) -> None:
    url = write_tars(tmp_path / "tars", tars, _damaged(tars))
    whole = _config(config, url, rows_per_step=12, steps=6, save_every=3)
    _train(whole)
    lines, lost = read_log(whole.out), read_lost(whole.out)
    assert lines[-1]["step"] == 6 and lines[-1]["lost"] == len(lost) >= 4
    assert {line["key"]: line["reason"] for line in lost} == LOST
    assert {line["shard"] for line in lost} == {f"{url}/0000{i}.tar" for i in range(3)}
    # It goes on exactly, counts and all, from where it stood.
    stopped = dataclasses.replace(whole, out=whole.out + "-stopped")
    half = "checkpoints/step-00000003"
    shutil.copytree(f"{whole.out}/{half}", f"{stopped.out}/{half}")
    for name in ("tokenizer.json", "log.jsonl", "lost.jsonl"):
        shutil.copy(f"{whole.out}/{name}", stopped.out)
    _train(stopped)
    assert _curve(stopped.out) == _curve(whole.out)
    assert read_lost(stopped.out) == lost


def test_the_others_stand_where_they_stood(
    config: Make, tars: list[Members], tmp_path: Path
) -> None:
    """Pictures that do not decode, are empty or were forgotten change nothing but their own
    places; so on many ranks."""
    sound = write_tars(tmp_path / "sound", tars)
    files = {name: data for name, data in itertools.chain(*tars) if name.endswith(".jpg")}
    bad: dict[str, Members | None] = {
        name: (None, [(name, b"")], [(name, b"\0" * len(files[name]))])[number % 3]
        for number, name in enumerate(list(files)[5::10])
    }
    broken = write_tars(tmp_path / "broken", tars, bad)
    before = _batches(_config(config, sound, "a"), 4)
    after = _batches(_config(config, broken, "b"), 4)
    assert sum(len(batch.lost) for batch in after) > 0
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.doc, other.doc) and one.documents == other.documents
        gone = (one.ids != other.ids).any(dim=1) | (one.labels != other.labels).any(dim=1)
        assert int(gone.sum()) <= len(other.lost)
        differing = (one.ids != other.ids) | (one.labels != other.labels)
        assert (other.weight[differing] == 0).all() and (other.labels[differing] == -100).all()
        same = ~differing
        assert torch.equal(one.ids[same], other.ids[same])


def test_above_a_share_it_stops_and_says_of_what(
    config: Make, tars: list[Members], tmp_path: Path
) -> None:
    bad: dict[str, Members | None] = {
        f"{i:04d}.jpg": [(f"{i:04d}.jpg", b"")] for i in range(1, 200, 4)
    }
    url = write_tars(tmp_path / "tars", tars, bad)
    quarter = _config(config, url)
    with pytest.raises(TrainingError, match=r"could not be read.*0\.05.*picture is empty.*of /"):
        _train(quarter)
    assert not Path(quarter.out, "model.json").exists()
    allowed = dataclasses.replace(quarter, max_lost=0.5, steps=6)
    _train(allowed)
    share = read_log(allowed.out)[-1]["lost"] or 0
    assert 5 < share < 60
    strict = _config(config, url, "-strict", max_lost=0.0)
    with pytest.raises(TrainingError, match=r"^\d of \d+ documents"):
        _train(strict)
    with pytest.raises(ConfigurationError, match="max_lost is 3"):
        dataclasses.replace(strict, max_lost=3).check()


def test_where_nothing_can_be_read_nothing_is_made(
    config: Make, tars: list[Members], tmp_path: Path
) -> None:
    every: dict[str, Members | None] = {
        name: [(name, b"")] for name, _ in itertools.chain(*tars) if name.endswith(".jpg")
    }
    empty = _config(config, write_tars(tmp_path / "empty", tars, every))
    with pytest.raises(ShardError, match=r"no sample that can be used: \d+ picture is empty"):
        _train(empty)
    none: dict[str, Members | None] = dict.fromkeys(every)
    with pytest.raises(ShardError, match=r"no sample that can be used: \d+ no image member"):
        _train(_config(config, write_tars(tmp_path / "none", tars, none)))
    one: dict[str, Members | None] = {"0000.txt": [("0000.txt", b"caf\xe9")]}
    made = _config(config, write_tars(tmp_path / "one", tars, one))
    source = dataclasses.replace(made.data[0], where="uid = '0000'")
    with pytest.raises(ShardError, match=r"none of 512 samples.*512 of them: text is not UTF-8"):
        _train(dataclasses.replace(made, data=(source,)))


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        (b'{"caption": true}', "caption is no text"),
        (b'{"caption": [{}, [false]]}', "caption is no text"),
        (b'{"caption": "a", "question": [1]}', "question is no text"),
        (b'{"caption": "a", "source_uid": {"a": 1}}', "source_uid is no text"),
        (b'{"caption": ["a", "b"], "caption_scores": [1]}', "caption_scores and captions differ"),
        (b'{"caption": ["a"], "caption_scores": ["b"]}', "caption_scores is no list of numbers"),
        (b'{"caption": "a", "image_codes": "abc"}', "image_codes is no list of numbers"),
        (b'{"caption": "a", "image_codes": [[1, 2], [3]]}', "image_codes is no list of numbers"),
        (b'{"caption": "a", "image_codes": [1, 2, 99999999999999999999]}', "image_codes is no"),
        (b'{"caption": ' + b"[" * 100_000, "broken json sidecar"),
        (b'{"caption": ' + b"1" * 10_000 + b"}", "broken json sidecar"),
        (b'{"caption": "a", "caption": "b"}', "broken json sidecar"),
        (b"\xff\xfe{}", "broken json sidecar"),
        (b"[]", "broken json sidecar"),
        (b"", "broken json sidecar"),
    ],
)
def test_odd_values_are_faults_of_their_sample(
    tars: list[Members], tmp_path: Path, sidecar: bytes, reason: str
) -> None:
    changes: dict[str, Members | None] = {"0001.txt": [("0001.json", sidecar)]}
    samples = open_samples(DataSource(url=write_tars(tmp_path, tars[:1], changes)))
    faults = samples.table(0)["fault"].to_pylist()
    assert faults[1].startswith(reason) and faults[:1] + faults[2:] == [None] * 63


def test_captions_are_what_their_members_say(
    config: Make, tars: list[Members], tmp_path: Path
) -> None:
    texts = ["a dog", " ", None, {}, "two dogs"]
    several = json.dumps({"caption": texts, "caption_scores": [1, 2, 3, 4, 0.5]}).encode()
    scored = json.dumps({"caption": ["a", "b", "c"], "caption_scores": [0.1, 0.3, 0.2]}).encode()
    changes: dict[str, Members | None] = {
        "0000.txt": [("0000.txt", "\ufeffein Hund\n".encode())],
        "0001.txt": [("0001.txt", b"caf\xe9")],
        "0002.txt": [("0002.json", b'{"caption": 1984}')],
        "0003.txt": [("0003.json", several)],
        # A text is enough; what lies beside it need not be ours.
        "0004.txt": [("0004.txt", b"a cat"), ("0004.json", b'[{"caption": 1}]')],
        "0005.txt": [("0005.txt", b"a cat"), ("0005.json", b'{"caption')],
        "0006.txt": [("0006.json", b'{"caption": null}')],
        "0007.txt": [("0007.json", scored)],
        "0008.txt": [("0008.en.txt", b"a hen"), ("0008.de.txt", b"ein Huhn")],
    }
    url = write_tars(tmp_path / "tars", tars[:1], changes)
    table = open_samples(DataSource(url=url)).table(0)
    captions = table["caption"].to_pylist()[:7]
    assert captions == ["ein Hund", "", "1984", "a dog", "a cat", "a cat", ""]
    faults = table["fault"].to_pylist()[:7]
    assert faults == [None, "text is not UTF-8", None, None, None, None, None]
    for key, choice, expected in (
        ("0003", "all", {"a dog", "two dogs"}), ("0003", "first", {"a dog"}),
        ("0003", "best", {"a dog"}), ("0007", "best", {"b"}),
        ("0008", "all", {"a hen", "ein Huhn"}),
    ):  # fmt: skip
        made = _config(config, url, key + choice, captions=choice)
        source = dataclasses.replace(made.data[0], where=f"uid = '{key}'")
        planner = make_setup(dataclasses.replace(made, data=(source,))).planner
        plans = [plan for row in planned(planner)[0] for plan in row]
        texts = {getattr(s, "text", None) for plan in plans for s in plan.segments}
        assert texts - {None, ""} == expected


def test_a_moment_without_storage_is_no_fault_of_a_sample(
    tars: list[Members], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    samples = open_samples(DataSource(url=write_tars(tmp_path, tars[:1])))
    read, calls = Folder.read_range, []

    def failing(self: Folder, name: str, start: int, size: int) -> bytes:
        calls.append(name)
        if len(calls) % 3:
            raise OSError(116, "Stale file handle")
        return read(self, name, start, size)

    monkeypatch.setattr(Folder, "read_range", failing)
    assert samples.picture(0, 1).ndim == 3 and len(calls) == 3
    monkeypatch.setattr(Folder, "read_range", _unreachable)
    with pytest.raises(StorageError, match=r"cannot be read.*the same command again"):
        samples.picture(0, 1)


def test_metadata_and_empty_cells_of_our_shards_are_read_as_patiently(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    made = str(build_shapes(tmp_path, range(6), side=40, format="parquet", val_share=0))
    samples = open_samples(DataSource(url=made))
    read, calls = Folder.read_table, []

    def failing(self: Folder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        calls.append(name)
        if len(calls) < 3:
            raise OSError(5, "Input/output error")
        return read(self, name, columns)

    monkeypatch.setattr(Folder, "read_table", failing)
    assert len(samples.table(0)) == 6 and len(calls) == 3
    monkeypatch.setattr(ParquetFile, "read_row_group", _nothing)
    with pytest.raises(SampleError, match="picture is empty"):
        samples.picture(0, 1)


def _nothing(self: ParquetFile, group: int, columns: list[str]) -> pa.Table:
    return pa.table({columns[0]: [None] * 6})


def _unreachable(self: Folder, name: str, start: int, size: int) -> bytes:
    raise TimeoutError("no answer")


def test_what_is_forgotten_keeps_its_place_and_is_no_loss(
    config: Make, tars: list[Members], tmp_path: Path
) -> None:
    url = write_tars(tmp_path / "tars", tars)
    whole = _config(config, url, "a")
    before = _batches(whole, 6)
    forgotten = [f"{i:04d}" for i in range(0, 200, 10)]
    (tmp_path / "tars" / "forgotten.json").write_text(json.dumps({"uids": forgotten}))
    # A vocabulary made now would know nothing of their captions.
    made = _config(config, url, "b", tokenizer=f"{whole.out}/tokenizer.json")
    after = _batches(made, 6)
    assert not any(batch.lost for batch in after)
    assert any(not torch.equal(a.ids, b.ids) for a, b in zip(before, after, strict=True))
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.doc, other.doc)
        assert (other.weight[one.ids != other.ids] == 0).all()
    planner = make_setup(made).planner
    _, lanes = planned(planner)
    assert 20 < sum(lane.unusable for lane in lanes) < 90


@pytest.fixture
def edits(tmp_path: Path) -> str:
    """Scenes, of which every second is an edit of the one before it."""

    def texts(seed: int) -> dict[str, str]:
        return {"instruction": "turn it", "source_uid": digest_fields(str(seed - 1)) * (seed % 2)}

    return str(build_shapes(tmp_path / "edits", range(40), side=60, texts=texts, val_share=0))


def _forget(url: str, uid: str) -> None:
    write_sealed(Folder(url), FORGOTTEN, {"uids": [uid]})


def test_an_edit_of_what_is_forgotten_is_not_learnt(config: Make, edits: str) -> None:
    """The picture before an edit is a sample of its own, and may be forgotten as any other."""
    gone = digest_fields("6")
    made = config(data=(DataSource(url=edits, tasks={"edit": 1.0}),), row_length=160)
    whole = _batches(made, 8)
    _forget(edits, gone)
    planner = make_setup(made).planner
    plans = [plan for row in planned(planner)[0] for plan in row]
    of_it = [plan for plan in plans if planner.columns(0, *plan.pictures[0][:2])["uid"] == gone]
    assert len(of_it) > 5 and all(plan.left_out == "forgotten" for plan in of_it)
    less = _batches(made, 8)
    assert sum(b.weight.sum() for b in less) < sum(b.weight.sum() for b in whole)


def test_a_document_without_what_is_forgotten_of_it_is_learnt(
    config: Make, world: World, tmp_path: Path
) -> None:
    """Of one that is longer than a row, parts that do not show the picture."""
    texts = ["a red circle" * 3] * 6
    url = str(build_documents(tmp_path, [(texts, [0, 5])]))
    made = config(data=(DataSource(url=url, tasks={"interleaved": 1.0}),), row_length=140)
    made = dataclasses.replace(made, tokenizer=_tokenizer(world, made))
    _forget(url, "0.1")
    planner = make_setup(made).planner
    plans = [plan for row in planned(planner)[0] for plan in row]
    with_it = [plan for plan in plans if ImageSegment(1, is_target=True) in plan.segments]
    assert 0 < len(with_it) < len(plans)
    assert all((plan.left_out != "") == (plan in with_it) for plan in plans)


def _tokenizer(world: World, config: TrainConfig) -> str:
    """That of the world's captions."""
    made = dataclasses.replace(config, data=world.config(world.folder).data)
    make_setup(made)
    return f"{made.out}/tokenizer.json"


def test_sightings_are_of_every_picture_that_was_shown(
    config: Make, edits: str, tmp_path: Path
) -> None:
    documents = str(build_documents(tmp_path / "d", [(["a dog", "a cat"], [0, 1])] * 9))
    made = config(
        data=(
            DataSource(url=edits, tasks={"edit": 1.0}),
            DataSource(url=documents, tasks={"interleaved": 1.0}),
        ),
        row_length=160, steps=6,
    )  # fmt: skip
    _train(made)
    seen = dict.fromkeys((digest_fields("6"), digest_fields("7"), "4.1", digest_fields("4")))
    planner = make_setup(made).planner
    expected: dict[str, set[int]] = {uid: set() for uid in seen}
    numbers = {digest_fields(str(i)): i for i in range(40)}
    for number, row in enumerate(planner.rows(planner.start())):
        if number == 6 * made.rows_per_step:
            break
        for plan in row:
            uid = planner.columns(plan.source, plan.shard, plan.row)["uid"]
            i = numbers[uid]
            others = (f"{i}.0", f"{i}.1") if plan.source else (digest_fields(str(i - 1)),)
            shown = {uid, *others}
            for one in shown & expected.keys():
                expected[one].add(number // made.rows_per_step + 1)
    found = sightings(made.out, list(seen))
    assert {uid: set(steps) for uid, steps in found.seen.items()} == expected
    assert all(expected.values())


def test_what_is_forgotten_makes_no_codec_no_vocabulary_and_no_score(
    world: World, tmp_path: Path
) -> None:
    made = build_shapes(tmp_path / "two", range(2), side=60, val_share=0)
    url = str(made)
    first = open_samples(DataSource(url=url)).table(0).to_pylist()[0]
    assert len(picture_views([url], side=24, count=9)) == 2
    assert len(caption_texts([DataSource(url=url)])) == 2
    _forget(url, first["uid"])
    assert len(picture_views([url], side=24, count=9)) == 1
    assert first["caption"] not in caption_texts([DataSource(url=url)])
    assert spread_places(open_samples(DataSource(url=url)), 9) == [(0, 1)]
    only = f"uid = '{first['uid']}'"
    assert spread_places(open_samples(DataSource(url=url)), 9, only) == []
