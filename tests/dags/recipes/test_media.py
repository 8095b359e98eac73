"""The recipes of videos, documents and edits on small worlds: what was planted is caught, every row
has one fate, local and Ray write the same bytes, a kill leaves no trace, other people can read."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from model_world import losses_before_and_after
from rich.console import Console

from gristmill.dags.dag_yaml import dump_dag
from gristmill.dags.demos.find import find_demo
from gristmill.dags.demos.images import free_port
from gristmill.dags.demos.media import MediaDemo, Planted, World, judge
from gristmill.dags.demos.video import write_video
from gristmill.dags.demos.web_server import HOST, Web, WebServer
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag
from gristmill.dags.reports.gather import gather_report
from gristmill.dags.reports.report import render_html
from gristmill.dags.runs.add import add
from gristmill.dags.runs.forget import forget
from gristmill.dags.runs.trace import trace_sample
from gristmill.dags.runs.verify import verify_run
from gristmill.dags.settings import apply_settings
from gristmill.errors import ConfigurationError
from gristmill.model.data.shard_sources import DataSource, open_samples
from gristmill.pipelines.decode import decode_rgb, encode_jpeg
from gristmill.pipelines.shards import files
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.stage import Read
from gristmill.pipelines.videos.frames import moments_of, sample_frames
from gristmill.pipelines.videos.video import VideoError

KINDS = ("video", "interleaved", "edit")


@dataclasses.dataclass
class Made:
    """A small world, served, and how it is run."""

    kind: str
    demo: MediaDemo
    world: World
    folder: Path
    port: int
    network: str

    def dag(self, *settings: str) -> Dag:
        """Without the rules that only a network that has learnt can decide."""
        source = str(self.folder / self.world.source)
        dag = self.demo.dag(source, self.network, f"{HOST}:{self.port}")
        rule = {
            "shots": "keep.rules.weak caption match=",
            "documents": "keep_images.rules.fits no text=",
            "pairs": "keep.rules.edit goes elsewhere=",
        }
        learnt = next(setting for node, setting in rule.items() if node in dag.nodes)
        return apply_settings(dag, [learnt, *settings])


def run(made: Made, out: Path, *settings: str, runner: str = "local") -> dict[str, Any]:
    web = Web(str(made.folder), made.port)
    with WebServer(web), make_progress(Console(file=io.StringIO()), True) as progress:
        return execute(made.dag(*settings), str(out), RunOptions(runner=runner), progress)


def digests(out: Path) -> dict[str, str]:
    """Of the ledger and the shards."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in ("ledger", "shards")
        for path in sorted((out / name).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A filter network that has hardly learnt, and a codec."""
    import torch

    from gristmill.dags.demos.images import CODEC
    from gristmill.model.codecs.patches import KMeansCodec
    from gristmill.model.codecs.registry import CodecTraining, save_codec, train_codec
    from gristmill.model.data.center_crop import resize_center_crop
    from gristmill.model.shapes.scenes import caption, draw, make_scene
    from gristmill.model.training.filter_network import train_filter_network

    scenes = [make_scene(i) for i in range(64)]
    folder = str(tmp_path_factory.mktemp("network"))
    pictures = [draw(scene, 64) for scene in scenes]
    texts = [caption(scene, 0) for scene in scenes]
    train_filter_network(pictures, texts, folder, steps=2, batch_size=32, threads=1)
    codec = KMeansCodec(sizes=(32,))
    views = torch.from_numpy(
        np.stack([resize_center_crop(picture, codec.side) for picture in pictures])
    )
    train_codec(codec, views, CodecTraining(steps=5))
    save_codec(codec, os.path.join(folder, CODEC))
    return folder


@pytest.fixture(scope="module", params=KINDS)
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, network: str
) -> Made:
    demo = find_demo(request.param)
    folder = tmp_path_factory.mktemp(f"world-{request.param}")
    (folder / "site").mkdir()
    port = free_port()
    world = demo.build(str(folder), f"http://{HOST}:{port}", 1, 0.08)
    (folder / "routes.json").write_text(json.dumps(world.routes))
    return Made(request.param, demo, world, folder, port, network)


@pytest.fixture(scope="module")
def done(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    run(made, out, "part_rows=7")
    return out


# Faults that only a network that has learnt can catch.
LEARNT = {"wrong caption", "picture of something else", "wrong edit"}


def test_what_was_planted_is_caught(made: Made, done: Path) -> None:
    summary = json.loads((done / "summary.json").read_text())
    assert summary["ledger_ok"] and verify_run(str(done)) == []
    truth = judge(made.demo, made.world.planted, str(done))["truth"]
    # The rules about captions come after the others, and drop at random here.
    missed = {
        fault: counts
        for fault, counts in truth.items()
        if fault not in LEARNT and counts["caught"] < counts["planted"]
    }
    # Nothing is in many documents in a world of three logos.
    missed.pop("logo of the site", None)
    assert missed == {}


def test_the_judge_can_tell_when_nothing_is_caught(made: Made, done: Path) -> None:
    fault, reasons = next(iter(made.demo.caught_as.items()))
    blind = dataclasses.replace(made.demo, caught_as={fault: ("never said",)})
    truth = judge(blind, made.world.planted, str(done))["truth"]
    assert truth[fault]["caught"] == 0 and reasons
    clean = [Planted(one.row, fault, one.url) for one in made.world.planted if one.fault == "clean"]
    sane = judge(made.demo, clean, str(done))["truth"]
    assert sane[fault]["caught"] < len(clean)


def test_a_threshold_reruns_only_what_follows(made: Made, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(done, out)
    before = {path for path in out.rglob("*.json") if "keep-" not in str(path)}
    times = {path: path.stat().st_mtime_ns for path in before if "nodes" in str(path)}
    run(made, out, "part_rows=7", "keep.rules.none at all=uid IS NULL")
    assert times and all(path.stat().st_mtime_ns == at for path, at in times.items())
    assert digests(out) == digests(done)


@pytest.mark.drill
def test_killed_and_finished_on_ray_the_bytes_are_the_same(
    made: Made, done: Path, tmp_path: Path, ray_session: None
) -> None:
    """The driver is killed at two moments; another runner goes on to the same bytes."""
    path = tmp_path / "dag.yaml"
    path.write_text(dump_dag(made.dag("part_rows=7")))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "gristmill", "run", str(path), "--out", str(out),
               "--runner", "local", "--plain"]  # fmt: skip
    rng = np.random.default_rng(KINDS.index(made.kind))
    with WebServer(Web(str(made.folder), made.port)):
        for _ in range(2):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(float(rng.uniform(2, 5)))
            process.send_signal(signal.SIGKILL)
            process.wait()
    run(made, out, "part_rows=7", runner="ray")
    assert digests(out) == digests(done)


# Minutes more: the same is tried of pictures alone in tests/dags/runs/test_add.py.
@pytest.mark.drill
def test_a_list_is_added(made: Made, done: Path, tmp_path: Path) -> None:
    """Half of the world, then all of it: the other half lies in shards of its own."""
    out, rows = tmp_path / "run", json.loads((done / "summary.json").read_text())["rows_in"]
    options = RunOptions(runner="local")
    web = WebServer(Web(str(made.folder), made.port))
    with web, make_progress(Console(file=io.StringIO()), True) as progress:
        half = dataclasses.replace(options, limit=rows // 2)
        first = execute(made.dag("part_rows=7"), str(out), half, progress)
        shards = {
            name: d for name, d in digests(out).items() if name.endswith((".tar", ".parquet"))
        }
        source = made.dag().stage("source")
        assert isinstance(source, Read)
        added = add(str(out), source, options, progress)
    assert added.summary is not None and added.summary["rows_in"] == rows // 2 + rows
    assert added.summary["dropped"]["source"]["repeated row"] >= rows // 2
    assert shards.items() <= digests(out).items() and verify_run(str(out)) == []
    samples = list(ShardSet(str(out / "shards")))
    assert len(samples) > first["samples"]["train"] > 0
    assert len({sample.uid for sample in samples}) == len(samples)
    if made.kind == "video":
        groups = [sample.columns["duplicate_group"] for sample in samples]
        assert len(set(groups)) == len(groups)


def test_samples_can_be_read_by_us_and_by_others(made: Made, done: Path, tmp_path: Path) -> None:
    import datasets
    from webdataset.tariterators import group_by_keys, tar_file_expander

    shards = ShardSet(str(done / "shards"))
    sample = shards[0]
    several = shards.media in ("document", "edit")
    assert len(sample.images) == (sample.columns["image_count"] if several else 1)
    per_picture = len(sample.columns["image_codes"]) // 36
    expected = len(sample.images) if several else min(2, sample.columns["frames"])
    assert per_picture == expected and sample.columns["image_codec"]
    tar = done / "shards" / "train" / "00000000.tar"
    with tarfile.open(tar) as file:
        names = [name.partition(".")[2] for name in file.getnames() if name.startswith(sample.uid)]
    endings = {
        "video": ["json", "mp4", "txt"],
        "edit": ["json", "source.jpg", "target.jpg", "txt"],
    }.get(shards.media)
    assert endings is None or names == endings
    with open(tar, "rb") as stream:
        opened = [{"url": str(tar), "stream": stream}]
        others = list(group_by_keys(tar_file_expander(opened)))
    assert others[0]["txt"].decode() == sample.caption and others[0]["__key__"] == sample.uid
    # The same rows as Parquet, as Hugging Face reads it.
    out = tmp_path / "parquet"
    shutil.copytree(done, out)
    run(made, out, "part_rows=7", "shards.format=parquet")
    again = ShardSet(str(out / "shards"))
    assert again[0].images == sample.images and len(again) == len(shards)
    schema = pq.read_schema(out / "shards" / "train" / "00000000.parquet")
    features = datasets.Features.from_arrow_schema(schema)
    if several:
        assert isinstance(features["images"].feature, datasets.Image)
    else:
        assert isinstance(features["video"], datasets.Video)
    assert features["caption"].dtype == "string"


@pytest.mark.parametrize("written", ["webdataset", "parquet"])
@pytest.mark.parametrize("made", ["video"], indirect=True)
def test_clips_can_be_shards_of_frames(
    made: Made, done: Path, tmp_path: Path, written: str
) -> None:
    out = tmp_path / "frames"
    shutil.copytree(done, out)
    run(
        made, out, "part_rows=7", "tokens.images=", "shards.media=frames", "shards.frames=3",
        "shards.frame_side=64", f"shards.format={written}",
    )  # fmt: skip
    clips = {clip.uid: clip for clip in ShardSet(str(done / "shards"))}
    shards = ShardSet(str(out / "shards"))
    assert {sample.uid for sample in shards} == clips.keys()
    for sample in shards:
        clip = clips[sample.uid]
        moments = sample.columns["picture_frames"]
        assert moments == moments_of(clip.columns["frames"], 3)
        frames = sample_frames(clip.image, moments, 64)
        assert len(sample.images) == len(frames) == 3 and max(frames[0].shape) == 64
        for data, frame in zip(sample.images, frames, strict=True):
            assert data[:3] == b"\xff\xd8\xff" and data == encode_jpeg(frame)
    assert verify_run(str(out)) == []
    if written == "webdataset":
        with tarfile.open(out / "shards" / "train" / "00000000.tar") as file:
            endings = [name.partition(".")[2] for name in file.getnames()[:5]]
        assert endings == ["0.jpg", "1.jpg", "2.jpg", "json", "txt"]
    # To a trainer they are the clip.
    samples = open_samples(DataSource(url=str(out)))
    assert samples.media == "video"
    first = ShardSet(str(out / "shards")).sample(0, 0).images
    for number, image in ((0, 0), (1, 2)):
        assert np.array_equal(samples.picture(0, 0, number, 2), decode_rgb(first[image]))
    assert np.array_equal(samples.picture(0, 0, 0, 1), decode_rgb(first[1]))


@pytest.mark.parametrize("made", ["video"], indirect=True)
def test_a_clip_whose_frames_cannot_be_had_is_a_row_with_its_reason(
    made: Made, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "frames"
    shutil.copytree(done, out)
    clips = list(ShardSet(str(done / "shards")))

    def sample(data: bytes, moments: Sequence[int], longest: int) -> list[Any]:
        if data == clips[1].image:
            raise VideoError("no frame decodes")
        return sample_frames(data, moments, longest)

    monkeypatch.setattr(files, "sample_frames", sample)
    run(made, out, "part_rows=7", "tokens.images=", "shards.media=frames", "shards.frames=2")
    splits = [{one.uid for one in ShardSet(str(out / "shards"), name)} for name in ("train", "val")]
    assert splits[0] == {clip.uid for clip in clips} - {clips[1].uid}
    lines = pq.read_table(out / "ledger").to_pylist()
    (lost,) = [row for row in lines if row["node"] == "shards"]
    assert (lost["uid"], lost["reason"]) == (clips[1].uid, "frames not decodable")
    assert lost["value"] == "VideoError: no frame decodes"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["ledger_ok"] and summary["kept"] == sum(map(len, splits))
    assert summary["dropped"]["shards"] == {"frames not decodable": 1}
    assert verify_run(str(out)) == []


def test_a_clip_that_ends_early_shows_its_last_frame() -> None:
    frames = [np.full((32, 32, 3), 60 * i, np.uint8) for i in range(4)]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "clip.mp4")
        write_video(frames, path)
        data = Path(path).read_bytes()
    found = sample_frames(data, [0, 3, 9], 32)
    assert [round(float(frame.mean()), -1) for frame in found] == [0, 180, 180]
    with pytest.raises(VideoError):
        sample_frames(b"no video", [0], 32)


def test_a_report_shows_frames_and_pictures(made: Made, done: Path) -> None:
    html = render_html(gather_report(str(done)))
    assert html.count("data:image/jpeg;base64") > 3
    uid = ShardSet(str(done / "shards"))[0].uid
    trace = trace_sample(str(done), uid)[0]
    assert trace.outcome["verdict"] == "kept" and trace.shard is not None


def test_what_has_no_line_of_its_own_is_traced_by_its_pieces(made: Made, done: Path) -> None:
    lines = pq.read_table(sorted((done / "ledger").glob("0*.parquet")))["uid"].to_pylist()
    first = sorted((done / "nodes").glob("source-*/0*.rows.parquet"))
    assert first
    silent = sorted(set(pq.read_table(first)["uid"].to_pylist()) - set(lines))
    # Every video that was cut goes on as its clips.
    assert silent or made.kind != "video"
    for uid in silent[:3]:
        pieces = trace_sample(str(done), uid)
        assert pieces and {piece.uid for piece in pieces} <= set(lines) - {uid}


def test_what_is_forgotten_goes_with_all_that_it_grew_into(
    made: Made, done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(done, out)
    shards = ShardSet(str(out / "shards"))
    sample = shards[0].columns
    if made.kind == "edit":
        wanted = ("uid", sample["image_uids"][0])
    else:
        address = sample["image_urls"][0] if made.kind == "interleaved" else sample["url"]
        wanted = ("url", address)
    found = forget(str(out), [wanted])
    assert found.skipped >= 1 and found.unknown == [] and sample["uid"] in found.uids
    assert sample["uid"] not in {one.uid for one in ShardSet(str(out / "shards"))}
    assert len(ShardSet(str(out / "shards"))) == len(shards) - 1
    run(made, out, "part_rows=7")
    again = {one.uid: one.columns for one in ShardSet(str(out / "shards"))}
    if made.kind == "interleaved":
        # The document goes on without the picture.
        assert sample["image_urls"][0] not in again[sample["uid"]]["image_urls"]
    else:
        assert sample["uid"] not in again


TASKS = {
    "video": {"continue": 0.6, "draw": 0.2, "describe": 0.2},
    "interleaved": {"interleaved": 1.0},
    "edit": {"edit": 1.0},
}


@pytest.mark.parametrize("paradigm", ["ar", "masked"])
def test_a_model_trains_on_the_shards(
    made: Made, done: Path, tmp_path: Path, paradigm: str
) -> None:
    """From stored codes alone; then it draws what follows."""
    from gristmill.dags.demos.images import CODEC
    from gristmill.model import load
    from gristmill.model.sampling.decoding import Sampling
    from gristmill.model.shapes.changes_suite import SUITES
    from gristmill.model.training.train import train
    from gristmill.model.training.train_config import TrainConfig

    source = DataSource(url=str(done), tasks=TASKS[made.kind])
    config = TrainConfig(
        out=str(tmp_path), data=(source,), codec=os.path.join(made.network, CODEC), size="nano",
        paradigm=paradigm, steps=8, rows_per_step=2, row_length=320, text_vocabulary=300,
        log_every=1, rate=1e-2, warmup=2,
    )  # fmt: skip
    train(config)
    before, after = losses_before_and_after(config)
    assert after < 0.85 * before
    suite = {"video": "motion", "interleaved": "stories", "edit": "edits"}[made.kind]
    scores = SUITES[suite](load(str(tmp_path)), count=4, sampling=Sampling(steps=4))
    assert scores["suite"] == suite and 0 <= scores["picture_invalid"] <= 1


def test_stored_codes_are_those_of_the_pictures(made: Made, done: Path, tmp_path: Path) -> None:
    """Whether a trainer reads codes or looks at pixels, and however many frames it asks for."""
    from gristmill.dags.demos.images import CODEC
    from gristmill.model.data.dataloader import PackedRowBuilder, picture_to_read
    from gristmill.model.training.train_config import TrainConfig
    from gristmill.model.training.training_setup import make_setup

    codec = os.path.join(made.network, CODEC)
    for frames in (1, 2, 50):
        source = DataSource(url=str(done), tasks=TASKS[made.kind], frames=frames)
        config = TrainConfig(
            out=str(tmp_path), data=(source,), codec=codec, size="nano", row_length=640,
            text_vocabulary=300,
        )  # fmt: skip
        setup = make_setup(config)
        columns = setup.planner.columns(0, 0, 0)
        count = setup.planner.frames(0, columns) if made.kind == "video" else 2
        assert made.kind != "video" or count == min(frames, len(columns["frame_index"]))
        planner = setup.planner
        builder = PackedRowBuilder(planner.samples, planner.writer, setup.image_tokenizer)
        for number in range(count if count == 2 else 0):
            picture = setup.planner.samples[0].picture(0, 0, number, count)
            known = setup.planner.picture_size(0, 0, 0, number)
            assert known is not None
            if made.kind == "video":
                # Frames are smaller copies of the clip.
                assert min(known) >= min(picture.shape[:2])
                assert abs(known[0] / known[1] - picture.shape[0] / picture.shape[1]) < 0.05
            else:
                assert known == picture.shape[:2]
            grid = setup.planner.grid(0, 0, 0, number)
            looked = setup.image_tokenizer.tokenize([picture], [grid])[0]
            read = builder.content(picture_to_read(planner, 0, 0, 0, number), grid)
            assert np.array_equal(looked.codes, read.codes)


def test_an_unknown_demo_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'video'"):
        find_demo("vidoe")
