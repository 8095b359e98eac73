"""Videos: shots and cutting beside the scenedetect command line with ffmpeg, scores of clips beside
decoding alone, cuts and copies on a set with fades and planted changes.

    python benchmarks/video.py cut       # needs the commands scenedetect and ffmpeg
    python benchmarks/video.py scores
    python benchmarks/video.py cuts
    python benchmarks/video.py copies [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from gristmill.dags.demos.video import joined, write_video
from gristmill.pipelines.dedup.video_duplicates import overlap
from gristmill.pipelines.videos.clip import Encoding
from gristmill.pipelines.videos.clip_facts import ClipFacts
from gristmill.pipelines.videos.cut_video import encode_pieces
from gristmill.pipelines.videos.frames import decode_clip
from gristmill.pipelines.videos.shots import Shots
from gristmill.pipelines.videos.video import open_video, play, probe
from gristmill.pipelines.videos.video_fingerprint import ClipSignature, frame_hashes

PAIRS = 5


def shot(seed: int, frames: int, width: int = 640, height: int = 360) -> list[Any]:
    """A pan over a ground of smooth noise, with things that move."""
    rng = np.random.default_rng(seed)
    small = rng.integers(20, 235, (9, 14, 3), np.uint8)
    wide = cv2.resize(small, (width + 2 * frames, height), interpolation=cv2.INTER_CUBIC)
    places, speeds = rng.uniform(60, 300, (3, 2)), rng.uniform(-4, 4, (3, 2))
    colours = rng.integers(0, 255, (3, 3))
    made = []
    for i in range(frames):
        frame = np.ascontiguousarray(wide[:, i : i + width])
        for place, speed, colour in zip(places, speeds, colours, strict=True):
            centre = tuple(int(v) for v in place + speed * i)
            cv2.circle(frame, centre, 40, tuple(int(c) for c in colour), -1)
        made.append(np.asarray(frame, np.uint8))
    return made


def pan(picture: Path, frames: int, width: int = 320, height: int = 180) -> list[Any]:
    """A slow pan and zoom over a photograph."""
    image = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    rows, columns = image.shape[:2]
    share = min(columns / width, rows / height)
    made = []
    for i in range(frames):
        zoom = share * (0.9 - 0.1 * i / frames)
        half = np.array([width, height]) * zoom / 2
        centre = np.array([columns, rows]) / 2 + (i / frames - 0.5) * 0.15 * half
        matrix = np.array([[zoom, 0, centre[0] - half[0]], [0, zoom, centre[1] - half[1]]])
        flags = cv2.INTER_AREA | cv2.WARP_INVERSE_MAP
        made.append(cv2.warpAffine(image, matrix, (width, height), flags=flags))
    return made


def film(path: Path, seed: int, shots: int, frames: int, *, fades: bool = False) -> list[int]:
    """A video of shots; where each after the first begins."""
    whole, cuts = joined([shot(100 * seed + i, frames) for i in range(shots)], fades=fades)
    write_video(whole, str(path), fps=25, every=50)
    return cuts


def ours(path: Path, out: Path) -> int:
    """Shots, and a clip for each, in this process."""
    data = path.read_bytes()
    facts = probe(data)
    _, times, _, end = Shots().find(data, facts.fps)
    edges = [0.0, *times, end]
    spans = list(itertools.pairwise(edges))
    count = 0
    for clip in encode_pieces(data, spans, Encoding(short_side=0, crf=22)):
        if clip is not None:
            (out / f"{count}.mp4").write_bytes(clip.data)
            count += 1
    return count


def theirs(path: Path, out: Path) -> int:
    """The same by scenedetect's command line, which calls ffmpeg (libx264, veryfast, crf 22)."""
    command = [os.path.join(os.path.dirname(sys.executable), "scenedetect"), "--input", str(path),
               "--output", str(out), "--quiet", "detect-adaptive", "--min-scene-len", "0.4s",
               "split-video", "--preset", "veryfast", "--rate-factor", "22"]  # fmt: skip
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, check=True, **quiet)  # type: ignore[call-overload]
    return len(list(out.glob("*.mp4")))


def timed(work: Callable[[Path, Path], int], path: Path) -> tuple[float, float, int]:
    """Seconds, seconds of processors (children's too), and clips made."""
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), sum(os.times()[:4])
        made = work(path, Path(folder))
        return time.perf_counter() - start, sum(os.times()[:4]) - before, made


def compare_cutting(folder: Path) -> None:
    """Medians of interleaved pairs on one film of ten shots."""
    path = folder / "film.mp4"
    cuts = film(path, 1, 10, 75)
    rounds = [(timed(ours, path), timed(theirs, path)) for _ in range(PAIRS)]
    wall, cpu = (
        [statistics.median(pair[i][what] for pair in rounds) for i in (0, 1)] for what in (0, 1)
    )
    print(json.dumps({
        "seconds_of_film": 30, "shots": len(cuts) + 1,
        "clips": [rounds[0][0][2], rounds[0][1][2]],
        "seconds": [round(value, 2) for value in wall], "ratio": round(wall[1] / wall[0], 2),
        "processor_seconds": [round(value, 2) for value in cpu],
        "processor_ratio": round(cpu[1] / cpu[0], 2),
    }))  # fmt: skip


def measure_scores(folder: Path) -> None:
    """Clips a second: decoding every frame, decoding once for all scores, and each score."""
    files = []
    for i in range(12):
        path = folder / f"clip-{i}.mp4"
        write_video(shot(500 + i, 100), str(path), fps=25)
        files.append(path.read_bytes())
    table = pa.table({"uid": [str(i) for i in range(len(files))]})

    def decode_alone() -> None:
        for data in files:
            with open_video(data) as container:
                for _ in play(container):
                    pass

    def decode() -> list[Any]:
        return [decode_clip(data) for data in files]

    clips = decode()
    works: dict[str, Callable[[], Any]] = {
        "decoding alone": decode_alone,
        "decoding for scores": decode,
        "ClipFacts": lambda: ClipFacts().score(table, clips),
        "ClipSignature": lambda: ClipSignature().score(table, clips),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(PAIRS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    frames = len(files) * 100
    print(json.dumps({
        name: {"clips_a_s": round(len(files) / statistics.median(t), 1),
               "frames_a_s": round(frames / statistics.median(t))}
        for name, t in times.items()
    }))  # fmt: skip


def judge_cuts(folder: Path) -> None:
    """F1 of cuts within one frame, hard ones and fades, on films of moving shots."""
    right = found = planted = 0
    for seed in range(20):
        path = folder / f"cuts-{seed}.mp4"
        cuts = film(path, 10 + seed, 5, 40, fades=seed % 2 == 1)
        ours_ = Shots().find(path.read_bytes(), 25.0)[0]
        right += sum(any(abs(c - cut) <= 1 for c in ours_) for cut in cuts)
        found, planted = found + len(ours_), planted + len(cuts)
    precision, recall = right / max(found, 1), right / planted
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)
    print(json.dumps({"cuts": planted, "precision": round(precision, 4),
                      "recall": round(recall, 4), "f1": round(f1, 4)}))  # fmt: skip


def _changed(frames: list[Any]) -> dict[str, tuple[list[Any], dict[str, int]]]:
    height, width = frames[0].shape[:2]
    marked = [frame.copy() for frame in frames]
    for frame in marked:
        frame[10 : 10 + height // 10, -10 - width // 8 : -10] = 250
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    small = [cv2.resize(f, (width // 4 * 2, height // 4 * 2), interpolation=cv2.INTER_AREA)
             for f in frames]  # fmt: skip
    return {
        "trimmed": (frames[len(frames) // 4 : -len(frames) // 6], {}),
        "re-encoded, crf 36": (frames, {"crf": 36}),
        "half the size": (small, {}),
        "logo": (marked, {}),
        "grey": ([np.repeat(grey[:, :, None], 3, axis=2) for grey in greys], {}),
        "half the frame rate": (frames[::2], {"fps": 12}),
        "mirrored (reported apart)": ([frame[:, ::-1] for frame in frames], {}),
        "cropped by a tenth (reported apart)": (
            [frame[height // 20 : -height // 20, width // 20 : -width // 20] for frame in frames],
            {},
        ),
    }


def judge_copies(folder: Path, pictures: str) -> None:
    """Recall of each planted change at the stage's own radius and overlap, and how many of all
    pairs of unrelated clips pass for copies: of drawn clips, or of pans over photographs."""
    originals: list[Any] = []
    hits: dict[str, list[bool]] = {}
    photographs = sorted(Path(pictures).rglob("*.jpg")) if pictures else []
    for i in range(len(photographs) or 60):
        frames = pan(photographs[i], 50) if photographs else shot(900 + i, 50, 320, 180)
        path = folder / "one.mp4"
        write_video(frames, str(path), fps=25)
        own = _hashes(path)
        originals.append(own)
        if i < 20:
            for name, (changed, options) in _changed(frames).items():
                write_video(changed, str(path), **{"fps": 25, **options})
                hits.setdefault(name, []).append(overlap(own, _hashes(path), 12) >= 0.6)
    false = sum(overlap(a, b, 12) >= 0.6 for i, a in enumerate(originals) for b in originals[:i])
    pairs = len(originals) * (len(originals) - 1) // 2
    print(json.dumps({"recall": {name: sum(h) / len(h) for name, h in hits.items()},
                      "false_pairs": false, "of": pairs}))  # fmt: skip


def _hashes(path: Path) -> Any:
    return np.stack(frame_hashes(decode_clip(path.read_bytes()).signature), axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("cut", "scores", "cuts", "copies"))
    parser.add_argument("--pictures", default="", help="photographs to pan over (copies)")
    options = parser.parse_args()
    works: dict[str, Callable[[Path], None]] = {
        "cut": compare_cutting,
        "scores": measure_scores,
        "cuts": judge_cuts,
        "copies": lambda folder: judge_copies(folder, options.pictures),
    }
    with tempfile.TemporaryDirectory() as folder:
        works[options.what](Path(folder))


if __name__ == "__main__":
    main()
