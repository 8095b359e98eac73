"""The demo of videos: clips in which a shape moves, with planted cuts, copies and faults."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import cv2
import numpy as np

from gristmill.dags.demos.media import CLEAN, MediaDemo, Planted, World, common_settings, scaled
from gristmill.dags.demos.web_server import Route
from gristmill.dags.graph import Dag
from gristmill.dags.recipes.video_text import video_text
from gristmill.dags.settings import apply_settings
from gristmill.pipelines.decode import Image

FPS = 12
SIDE = 176
_SECONDS = 2.5
_CLEAN = 110
PLANTED = {
    "wrong caption": 14, "static": 10, "black": 4, "black bars": 8, "trimmed copy": 10,
    "re-encoded copy": 10, "resized copy": 10, "copy with a logo": 10, "grey copy": 10,
    "several shots": 10, "shots with fades": 6, "corrupt tail": 3, "html for video": 3,
    "dead link": 3, "still picture": 2, "too short": 3,
}  # fmt: skip
COPY = "copy of another clip"
CAUGHT_AS: dict[str, tuple[str, ...]] = {
    "wrong caption": ("weak caption match",),
    "static": ("static",),
    "black": ("black",),
    "black bars": ("black bars",),
    **{fault: (COPY,) for fault in PLANTED if "copy" in fault},
    "html for video": ("html instead of video",),
    "dead link": ("http 404",),
    "still picture": ("still image",),
    "too short": ("shot too short",),
}


def write_video(
    frames: Sequence[Image],
    path: str,
    *,
    fps: int = FPS,
    crf: int = 18,
    every: int = 12,
) -> None:
    """H.264 in mp4, a keyframe every so many frames."""
    with av.open(path, "w") as output:
        options = {"crf": str(crf), "preset": "ultrafast", "g": str(every)}
        stream = output.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for i, frame in enumerate(frames):
            one = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            one.pts, one.time_base = i, Fraction(1, fps)
            output.mux(stream.encode(one))
        output.mux(stream.encode(None))


def moving(seed: int, seconds: float = _SECONDS, side: int = SIDE) -> tuple[list[Image], str]:
    """Frames and caption of a clip in which a shape moves."""
    from gristmill.model.shapes.changes import draw_motion, make_motion

    motion = make_motion(seed)
    return draw_motion(motion, round(seconds * FPS), side), motion.text


def build(folder: str, base: str, seed: int, share: float) -> World:
    """Write the videos, their list, and the truth."""
    rng = np.random.Generator(np.random.PCG64([seed, 31]))
    clean, counts = max(1, round(_CLEAN * share)), scaled(PLANTED, share)
    first = 6 * 10**9 + seed * 10**5
    rows: list[tuple[str, str]] = []
    planted: list[Planted] = []
    routes: dict[str, Route] = {}

    def add(
        fault: str,
        frames: Sequence[Image],
        caption: str,
        *,
        group: int = -1,
        cuts: Sequence[int] = (),
        crf: int = 18,
    ) -> None:
        path = f"/{len(rows):04d}.mp4"
        write_video(frames, os.path.join(folder, "site", path[1:]), crf=crf)
        routes[path] = {"type": "video/mp4"}
        planted.append(Planted(len(rows), fault, group=group, cuts=list(cuts)))
        rows.append((base + path, caption))

    for i in range(clean):
        add(CLEAN, *moving(first + i))
    for i in range(counts["wrong caption"]):
        add("wrong caption", moving(first + 1000 + i)[0], moving(first + 2000 + i)[1])
    for i in range(counts["static"]):
        frames, caption = moving(first + 3000 + i)
        add("static", [frames[0]] * len(frames), caption)
    for i in range(counts["black"]):
        frames, caption = moving(first + 4000 + i)
        add("black", [np.zeros_like(frame) for frame in frames], caption)
    for i in range(counts["black bars"]):
        frames, caption = moving(first + 5000 + i)
        add("black bars", [_barred(frame) for frame in frames], caption)
    copied = iter(rng.permutation(clean))
    for fault, change, crf in _COPIES:
        for _ in range(counts[fault]):
            of = int(next(copied))
            frames, caption = moving(first + of)
            add(fault, change(frames), caption, group=of, crf=crf)
    for fault in ("several shots", "shots with fades"):
        for i in range(counts[fault]):
            offset = 6000 if fault == "several shots" else 7000
            shots = [moving(first + offset + 10 * i + j, 1.5)[0] for j in range(4)]
            frames, cuts = joined(shots, fades=fault == "shots with fades")
            add(fault, frames, "", cuts=cuts)
    for i in range(counts["too short"]):
        frames, caption = moving(first + 8000 + i, 0.5)
        add("too short", frames, caption)
    _add_broken(folder, base, first, counts, rows, planted, routes)
    with open(os.path.join(folder, "videos.csv"), "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        writer.writerows(rows)
    return World("videos.csv", planted, routes)


def _add_broken(
    folder: str,
    base: str,
    first: int,
    counts: dict[str, int],
    rows: list[tuple[str, str]],
    planted: list[Planted],
    routes: dict[str, Route],
) -> None:
    for fault in ("corrupt tail", "html for video", "dead link", "still picture"):
        for i in range(counts[fault]):
            path = f"/{len(rows):04d}.mp4"
            name = os.path.join(folder, "site", path[1:])
            frames, caption = moving(first + 9000 + 10 * i, 4.0)
            if fault == "html for video":
                routes[path] = {"text": "<!doctype html><html>Please log in</html>"}
            elif fault == "dead link":
                routes[path] = {"status": 404}
            else:
                write_video(frames[:1] if fault == "still picture" else frames, name)
                routes[path] = {"type": "video/mp4"}
            if fault == "corrupt tail":
                _spoil_tail(name)
            planted.append(Planted(len(rows), fault))
            rows.append((base + path, caption))


def _spoil_tail(name: str) -> None:
    """Overwrite the last third of the frames' data; the index, which lies at the end, stays."""
    with open(name, "r+b") as file:
        data = file.read()
        start = data.index(b"mdat")
        end = data.index(b"moov")
        at = start + 2 * (end - start) // 3
        file.seek(at)
        file.write(bytes(end - 8 - at))


def _barred(frame: Image) -> Image:
    barred = frame.copy()
    edge = frame.shape[0] // 4
    barred[:edge], barred[-edge:] = 0, 0
    return barred


def joined(shots: Sequence[Sequence[Image]], *, fades: bool) -> tuple[list[Image], list[int]]:
    """Shots one after the other, with a fade through black between them or none; and where each
    after the first begins: in the middle of the black."""
    frames: list[Image] = []
    cuts: list[int] = []
    for shot in shots:
        if frames and fades:
            out = [_dimmed(frames[-1], share) for share in (0.75, 0.5, 0.25)]
            into = [_dimmed(shot[0], share) for share in (0.25, 0.5, 0.75)]
            dark = [np.zeros_like(shot[0])] * 4
            cuts.append(len(frames) + len(out) + len(dark) // 2)
            frames += [*out, *dark, *into]
        elif frames:
            cuts.append(len(frames))
        frames += shot
    return frames, cuts


def _dimmed(frame: Image, share: float) -> Image:
    return np.asarray(np.rint(frame * share), np.uint8)


def _resized(frames: Sequence[Image]) -> list[Image]:
    size = (SIDE * 3 // 4 // 2 * 2,) * 2
    return [np.asarray(cv2.resize(f, size, interpolation=cv2.INTER_AREA), np.uint8) for f in frames]


def _with_logo(frames: Sequence[Image]) -> list[Image]:
    marked = []
    for frame in frames:
        one = frame.copy()
        corner = frame.shape[0] // 6
        one[4 : 4 + corner // 2, -4 - corner : -4] = (250, 250, 250)
        marked.append(one)
    return marked


def _grey(frames: Sequence[Image]) -> list[Image]:
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return [np.repeat(np.asarray(grey, np.uint8)[:, :, None], 3, axis=2) for grey in greys]


def _trimmed(frames: Sequence[Image]) -> list[Image]:
    return list(frames[len(frames) // 5 : -len(frames) // 6])


_Change = Callable[[Sequence[Image]], list[Image]]
# Fault, what is done to the frames, and how coarsely they are encoded.
_COPIES: tuple[tuple[str, _Change, int], ...] = (
    ("trimmed copy", _trimmed, 18),
    ("re-encoded copy", list, 34),
    ("resized copy", _resized, 18),
    ("copy with a logo", _with_logo, 18),
    ("grey copy", _grey, 18),
)


def demo_dag(source: str, network: str, host: str) -> Dag:
    """The video-text recipe on the little world."""
    return apply_settings(
        video_text(path=source, name="little-world"),
        [
            f"download.allow_hosts={host}",
            "download.timeout_s=10",
            "keep.rules.weak caption match=clip_score_max < 0.55",
            "shards.title=Moving shapes",
            *common_settings(network),
            "tokens.frames=2",
            "part_rows=60",
        ],
    )


DEMO = MediaDemo(build, demo_dag, CAUGHT_AS, "keep", "clip_score_max", "wrong caption")
