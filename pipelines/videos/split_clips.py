"""Clips: each shot of a video, or the stretch that its row names, as a row of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import av
import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.schema import (
    FAILED_TO_CUT,
    ROW,
    ColumnFacts,
    Row,
    make_child_uid,
    make_image_id,
    with_columns,
)
from gristmill.pipelines.stage import Map, Needs, require_choice, setting
from gristmill.pipelines.videos.clip import Clip, Encoding
from gristmill.pipelines.videos.cut_video import copy_pieces, encode_pieces
from gristmill.pipelines.videos.video import VideoError

_OWN = pa.schema(
    [
        pa.field("format", pa.string()),
        pa.field("video_uid", pa.string()),
        pa.field("start_frame", pa.int32()),
        pa.field("end_frame", pa.int32()),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("shot", pa.int32()),
        pa.field("shot_part", pa.int32()),
        pa.field("encoded", pa.bool_()),
        pa.field("has_audio", pa.bool_()),
        pa.field("fps", pa.float32()),
        pa.field("duration_s", pa.float32()),
        pa.field("frames", pa.int32()),
        pa.field("image", pa.binary()),
    ]
)
SCHEMA = pa.schema(
    [
        *[
            ROW.field(n)
            for n in ("uid", "image_id", "parent_uid", "status", "error", "width", "height")
        ],
        *_OWN,
    ]
)


NOT_ENCODED = "not encodable"
OUTSIDE_VIDEO = "stretch outside the video"
BEYOND_VIDEO = "stretch ends beyond the video"
# Lists round their times, and some count the sound.
_BEYOND_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Clips(Map):
    """Cut each video at its shots; shots that are too long are cut into even pieces.

    Every shot comes out: as one or several clips, or as a row that failed with the reason. A row
    whose source names a stretch (`start`, `end` in seconds) gives that stretch, without looking at
    shots unless `split_segments`.
    """

    takes_bytes: ClassVar[bool] = True
    # 2: clips of AVI files are in the order shown; open groups of pictures end where they do.
    # 3: variable frame rates; stretches that end beyond the video fail.
    version: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = ("av",)

    # "exact": encoded again, exact to the frame. "keyframe": packets are copied, many times faster,
    # from keyframe to keyframe within the shot.
    cut: str = setting("exact", choices=("exact", "keyframe"))
    # Shorter shots fail.
    min_s: float = setting(1.0, unit="s", low=0)
    # Longer shots are cut into even pieces.
    max_s: float = setting(20.0, unit="s", low=0)
    # Left away at both ends of a shot, where the last of a fade may lie.
    margin_s: float = setting(0.0, unit="s", low=0)
    # Cut also stretches that the source names at the shots within.
    split_segments: bool = False
    # Shorter side of what is encoded; 0: as it is.
    short_side: int = setting(480, unit="pixels", low=0)
    # Quality of x264: 0 lossless, 18 hardly to be told apart, 51 worst.
    crf: int = setting(18, low=0, high=51)
    # How long x264 may look for a smaller file, from ultrafast to veryslow.
    preset: str = "veryfast"
    # Whether sound goes along.
    audio: bool = True

    def reads(self) -> tuple[str, ...]:
        """Where shots begin, and how much decoded."""
        names = ("uid", "image_id", "status", "meta", "fps", "cuts", "cut_times", "decoded_frames")
        return (*names, "decoded_s", "blob_offset", "blob_size")

    def writes(self) -> pa.Schema:
        """Place, size and file of each clip."""
        return SCHEMA

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "video_uid": ColumnFacts("uid of the row of the video."),
            "start_frame": ColumnFacts(
                "Frame of the video with which the clip begins.", "frames", low=0
            ),
            "end_frame": ColumnFacts(
                "Frame of the video before which the clip ends.", "frames", low=0
            ),
            "start_s": ColumnFacts("When the clip begins in the video.", "s", low=0),
            "end_s": ColumnFacts("When the clip ends in the video.", "s", low=0),
            "shot": ColumnFacts("Number of the shot within the video, from 0.", low=0),
            "shot_part": ColumnFacts("Number of the clip within the shot, from 0.", low=0),
            "encoded": ColumnFacts("Whether frames were encoded again, or packets copied."),
        }

    def forwards_column(self, column: str) -> bool:
        """What was said of the whole video ends here."""
        return column not in ("cuts", "cut_times", "decoded_frames", "decoded_s", "keyframes",
                              "rotation", "container")  # fmt: skip

    def needs(self) -> Needs:
        """One decoder and one encoder."""
        return Needs(memory_gb=2.0)

    def check(self) -> None:
        """Validate the choices."""
        require_choice(self, "cut")
        if not 0 <= self.min_s <= self.max_s or self.max_s <= 0:
            raise ConfigurationError(
                f"min_s is {self.min_s} and max_s {self.max_s}; it needs 0 <= min_s <= max_s"
            )
        if not 0 <= self.crf <= 51 or self.short_side < 0 or self.margin_s < 0:
            raise ConfigurationError(
                "crf lies between 0 and 51; short_side and margin_s must not be below 0"
            )

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield the clips of each video, one a table."""
        for row in range(len(table)):
            one = table.slice(row, 1)
            yield from self._clips(one, one.to_pylist()[0])

    def _clips(self, table: pa.Table, row: Row) -> Iterator[pa.Table]:
        wrong = _outside(segment_of(row["meta"]), row["decoded_s"] or 0.0)
        if wrong:
            yield self._row(table, row, 0, error=wrong)
            return
        shots = self._shots(row)
        plans: list[_Plan] = []
        for number, (start, end) in enumerate(shots):
            plans += self._plan(number, start, end, row["fps"] or 25.0)
        cut = [plan for plan in plans if plan.error is None]
        made = iter(self._cut(row, cut))
        for ordinal, plan in enumerate(plans):
            clip, error = (None, plan.error) if plan.error else next(made, (None, "not decodable"))
            yield self._row(table, row, ordinal, plan, clip, error)

    def _shots(self, row: Row) -> list[tuple[float, float]]:
        """Seconds of each shot, or of the stretch that the source names."""
        end = row["decoded_s"] or 0.0
        edges = [0.0, *row["cut_times"], end]
        segment = segment_of(row["meta"])
        if segment is None:
            return list(itertools.pairwise(edges))
        start, stop = segment[0], min(segment[1], end)
        inner = [t for t in row["cut_times"] if start < t < stop] if self.split_segments else []
        edges = [start, *inner, stop]
        return list(itertools.pairwise(edges))

    def _plan(self, shot: int, start: float, end: float, fps: float) -> list[_Plan]:
        """The clips of one shot."""
        start, end = start + self.margin_s, end - self.margin_s
        # Half a frame of slack, so that rounding drops nothing.
        if end - start < self.min_s - 0.5 / fps:
            return [_Plan(shot, 0, start, end, "shot too short")]
        count = max(1, math.ceil((end - start) / self.max_s - 1e-6))
        edges = [start + (end - start) * i / count for i in range(count + 1)]
        return [_Plan(shot, i, edges[i], edges[i + 1], None) for i in range(count)]

    def _cut(self, row: Row, plans: Sequence[_Plan]) -> Iterator[tuple[Clip | None, str | None]]:
        spans = [(plan.start_s, plan.end_s) for plan in plans]
        if self.cut == "keyframe":
            # What cannot be copied is encoded.
            with contextlib.suppress(VideoError, av.error.FFmpegError):
                for clip in copy_pieces(row["image"], tuple(spans)):
                    short = clip is not None and clip.end_s - clip.start_s < self.min_s
                    spans.pop(0)
                    yield (None, "no keyframes") if clip is None or short else (clip, None)
        encoding = Encoding(
            short_side=self.short_side, crf=self.crf, preset=self.preset, audio=self.audio
        )
        while spans:
            try:
                for clip in encode_pieces(row["image"], tuple(spans), encoding):
                    spans.pop(0)
                    yield clip, None if clip else "no frames"
            except av.error.FFmpegError:
                # Of this clip; the next may be sound.
                spans.pop(0)
                yield None, NOT_ENCODED

    def _row(
        self,
        table: pa.Table,
        row: Row,
        ordinal: int,
        plan: _Plan | None = None,
        clip: Clip | None = None,
        error: str | None = None,
    ) -> pa.Table:
        values: dict[str, object] = dict.fromkeys(_OWN.names)
        values |= {
            "uid": make_child_uid(row["uid"], "Clips", ordinal),
            "parent_uid": row["uid"],
            "image_id": row["image_id"],
            "status": row["status"] if clip else FAILED_TO_CUT,
            "error": None if clip else error,
            "video_uid": row["uid"],
        }
        if plan is not None:
            values |= {"shot": plan.shot, "shot_part": plan.part}
            values |= {"start_s": round(plan.start_s, 5), "end_s": round(plan.end_s, 5)}
            # Rows that name the same stretch of one video are captions of one clip.
            place = f"{row['image_id']}#{plan.start_s:.5f}-{plan.end_s:.5f}"
            values["image_id"] = make_image_id("clip", place)
        if clip is not None:
            values |= {
                "format": "mp4",
                "start_frame": clip.piece.start,
                "end_frame": clip.piece.end,
                "frames": clip.frames,
                "start_s": clip.start_s,
                "end_s": clip.end_s,
                "duration_s": clip.end_s - clip.start_s,
                "width": clip.width,
                "height": clip.height,
                "fps": clip.fps,
                "encoded": clip.encoded,
                "has_audio": clip.has_audio,
                "image": clip.data,
            }
        names = [n for n in table.column_names if n in _OWN.names or self.forwards_column(n)]
        columns = {name: [value] for name, value in values.items()}
        return with_columns(table.select(names), columns, SCHEMA)


@dataclass(frozen=True)
class _Plan:
    """A clip to be cut, or why there will be none."""

    shot: int
    part: int
    start_s: float
    end_s: float
    error: str | None


def _outside(segment: tuple[float, float] | None, end_s: float) -> str | None:
    """Why a stretch is none of a video of which so many seconds decode."""
    if segment is None:
        return None
    if not 0 <= segment[0] < min(segment[1], end_s):
        return OUTSIDE_VIDEO
    return BEYOND_VIDEO if segment[1] > end_s + _BEYOND_S else None


def segment_of(meta: str | None) -> tuple[float, float] | None:
    """The stretch in seconds that a row's source names, if it names one."""
    try:
        values = json.loads(meta or "{}")
        start, end = float(values.get("start") or 0.0), float(values["end"])
    except (KeyError, TypeError, ValueError):
        return None
    return (start, end) if math.isfinite(start) and math.isfinite(end) else None
