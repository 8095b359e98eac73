"""Videos with seeded damage through the whole video path, and what must hold of what comes out."""

from __future__ import annotations

import collections
import functools
import io
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from source_fuzz import damage
from videos import encode

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.supervision import Supervision
from gristmill.dags.graph import Dag, Node
from gristmill.dags.runs.verify import verify_run
from gristmill.pipelines.download.videos import DownloadVideo
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.videos.clip_facts import ClipFacts
from gristmill.pipelines.videos.shots import Shots
from gristmill.pipelines.videos.split_clips import Clips
from gristmill.pipelines.videos.video_fingerprint import ClipSignature

SIDE, FPS, SHOT = 64, 25, 28
FILMS = 3
# One file in so many is sound: what lies beside damage comes out as if it lay alone.
SOUND = 6
# Ending -> encoder, container, and options of the encoder.
CONTAINERS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mp4": ("libx264", "mp4", {"bf": "2"}),
    "mkv": ("libx264", "matroska", {"bf": "2"}),
    "avi": ("mpeg4", "avi", {"bf": "2"}),
    "webm": ("libvpx", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    "mov": ("mpeg4", "mov", {}),
    "ts": ("libx264", "mpegts", {"bf": "2"}),
}


@functools.cache
def film(ending: str, number: int) -> bytes:
    """Two shots of a ground that moves, of one container."""
    codec, form, options = CONTAINERS[ending]
    frames: list[Any] = []
    for shot in range(2):
        rng = np.random.default_rng(10 * number + shot)
        ground = cv2.resize(rng.integers(0, 255, (6, 6, 3), np.uint8), (SIDE + SHOT, SIDE))
        frames += [np.ascontiguousarray(ground[:, i : i + SIDE]) for i in range(SHOT)]
    sound = np.sin(np.arange(2 * SHOT * 640) / 20) / 4 if ending in ("mp4", "mkv") else None
    return encode(frames, codec=codec, form=form, fps=FPS, every=12, sound=sound, **options)


def damaged_film(seed: int) -> tuple[str, bytes]:
    """Ending and bytes of the file of a seed; damage lies where containers say what is where as
    often as among frames."""
    rng = random.Random(seed)
    ending = list(CONTAINERS)[seed % len(CONTAINERS)]
    data = film(ending, seed % FILMS)
    if is_sound(seed):
        return ending, data
    head, tail = 1024, len(data) - 2048
    begin, end = rng.choice([(0, head), (tail, len(data)), (0, len(data)), (head, tail)])
    times = rng.choice([1, 1, 2, 5, 20])
    return ending, data[:begin] + damage(data[begin:end], rng, times) + data[end:]


def is_sound(seed: int) -> bool:
    """Whether nothing is wrong with the file of a seed; each container has such ones."""
    return seed // len(CONTAINERS) % SOUND == 0


def _dag(folder: Path) -> Dag:
    source = Source(path=str(folder), kind="video")
    nodes = {
        "source": Node(source),
        "download": Node(DownloadVideo(), ("source",)),
        "shots": Node(Shots(), ("download",)),
        "clips": Node(Clips(short_side=SIDE, preset="ultrafast"), ("shots",)),
        "facts": Node(ClipFacts(), ("clips",)),
        "signature": Node(ClipSignature(), ("clips",)),
        "keep": Node(Keep(rules={"still": "motion < 0"}), ("facts", "signature")),
        "shards": Node(Shards(media="video", val_share=0.0), ("keep",)),
    }
    return Dag("fuzz", nodes, part_rows=40)


def fuzz_videos(seeds: Sequence[int], folder: Path) -> collections.Counter[str]:
    """Run the files of these seeds to shards of clips, in supervised children; returns what became
    of them, by container.

    Raises `AssertionError` for a row that is lost, a clip that is not what its row says, a sound
    file that came out otherwise than alone; and whatever the run itself raises.
    """
    videos = folder / "videos"
    videos.mkdir(parents=True)
    endings = {}
    for seed in seeds:
        endings[seed], data = damaged_film(seed)
        (videos / f"{seed:06d}.{endings[seed]}").write_bytes(data)
        (videos / f"{seed:06d}.txt").write_text(f"film of seed {seed}")
    options = RunOptions(runner="local", supervision=Supervision(row_deadline_s=20.0))
    with make_progress(None, True, log=None) as progress:
        execute(_dag(videos), str(folder / "run"), options, progress)
    assert verify_run(str(folder / "run")) == []
    rows = _ledger(folder / "run")
    clips = _check_clips(folder / "run", seeds)
    fates: dict[int, set[str]] = {seed: set() for seed in seeds}
    for row in rows:
        fates[int(Path(str(row["path"])).stem)].add(
            "" if row["verdict"] == "kept" else str(row["reason"])
        )
    assert all(fates.values()), [seed for seed, found in fates.items() if not found]
    for seed, found in fates.items():
        assert not is_sound(seed) or (found == {""} and clips[seed] == 2), (seed, found)
    return collections.Counter(
        f"{endings[seed]}: {'clips' if clips[seed] else min(found)}"
        for seed, found in fates.items()
    )


def _ledger(run: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted((run / "ledger").glob("*.parquet"))]
    return list(pa.concat_tables(tables).to_pylist())


def _check_clips(run: Path, seeds: Sequence[int]) -> collections.Counter[int]:
    """Each clip decodes to what its row says; returns how many came of each file."""
    found: collections.Counter[int] = collections.Counter()
    for sample in ShardSet(str(run / "shards")):
        seed = int(sample.caption.rpartition(" ")[2])
        assert seed in seeds
        found[seed] += 1
        frames, size = _decoded(sample.images[0])
        columns = sample.columns
        assert frames == columns["frames"] <= columns["end_frame"] - columns["start_frame"]
        assert size == (columns["width"], columns["height"])
        if is_sound(seed):
            assert frames == SHOT == columns["end_frame"] - columns["start_frame"]
    return found


def _decoded(data: bytes) -> tuple[int, tuple[int, int]]:
    with av.open(io.BytesIO(data)) as container:
        frames: Iterator[Any] = container.decode(container.streams.video[0])
        sizes = [(frame.width, frame.height) for frame in frames]
    return len(sizes), sizes[0]
