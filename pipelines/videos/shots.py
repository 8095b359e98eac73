"""Shots: where one take ends and the next begins, found by PySceneDetect's detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from gristmill.errors import ConfigurationError
from gristmill.pipelines.media import FILE, Decoded, Media
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Needs, Score, require_choice, setting
from gristmill.pipelines.videos.video import open_video, pixels, play

# Seconds that a fade may stay dark or light between two shots.
_LONGEST_FADE_S = 1.0
_FIELDS = pa.schema(
    [
        pa.field("cuts", pa.list_(pa.int32())),
        pa.field("cut_times", pa.list_(pa.float64())),
        pa.field("decoded_frames", pa.int32()),
        pa.field("decoded_s", pa.float32()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Shots(Score):
    """Cuts of each video: hard ones by PySceneDetect's adaptive or content detector, fades through
    black or white by its threshold detector. Gradual dissolves are not looked for.
    """

    media: ClassVar[Media | None] = FILE
    # 2: frames of AVI files have their true times.
    # 3: the last frame is shown as long as its file says; streams without a container.
    version: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = ("av", "scenedetect-headless")

    # adaptive: change against that of the frames around; content: change alone.
    detector: str = setting("adaptive", choices=("adaptive", "content"))
    # Of the detector: 3 for adaptive, 27 for content; 0: its default.
    threshold: float = setting(0.0, low=0)
    # Mean grey level below which a frame is taken for faded out; 0: fades are not sought.
    fade_level: float = setting(12.0, low=0, high=255)
    # Shots shorter than this are joined to the one before.
    min_shot_s: float = setting(0.4, unit="s", low=0)
    # Longer side at which frames are compared.
    side: int = setting(256, unit="pixels", low=32)

    def reads(self) -> tuple[str, ...]:
        """Frames a second."""
        return ("fps",)

    def writes(self) -> pa.Schema:
        """Cuts, and how much of the video decoded."""
        return _FIELDS

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "cuts": ColumnFacts(
                "Frame with which each shot after the first begins; frames count from 0 as shown."
            ),
            "cut_times": ColumnFacts("When those frames are shown.", "s"),
            "decoded_frames": ColumnFacts(
                "Frames that decoded; fewer than `frames` where the tail is broken.",
                "frames",
                low=0,
            ),
            "decoded_s": ColumnFacts(
                "Time from the first frame to the end of the last that decoded.", "s", low=0
            ),
        }

    def needs(self) -> Needs:
        """One decoder and the file."""
        return Needs(memory_gb=1.5)

    def check(self) -> None:
        """Validate the choices."""
        require_choice(self, "detector")
        if self.side < 32:
            raise ConfigurationError(f"Shots.side is {self.side}; it must be at least 32 pixels")

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Find the cuts of each file; rows about stretches of one file share what is found."""
        assert images is not None
        rows: list[tuple[list[int], list[float], int, float]] = []
        last: tuple[bytes, float] | None = None
        for data, fps in zip(images, table["fps"].to_pylist(), strict=True):
            rows.append(rows[-1] if (data, fps) == last else self.find(data, fps or 25.0))
            last = (data, fps)
        columns = [list(column) for column in zip(*rows, strict=True)] or [
            [] for _ in self.writes()
        ]
        return pa.table(columns, schema=self.writes())

    def find(self, data: bytes, fps: float) -> tuple[list[int], list[float], int, float]:
        """Cuts, their seconds, decoded frames and decoded seconds of one file."""
        from scenedetect import FrameTimecode

        shortest = max(1, round(self.min_shot_s * fps))
        main, fades = self._detectors(shortest)
        detectors = [main, *(side for pair in fades for side in pair)]
        found: list[list[int]] = [[] for _ in detectors]
        count, end, step = 0, 0.0, 1 / fps
        position = FrameTimecode(0, fps)
        times: list[float] = []
        with open_video(data) as container:
            for frame in play(container):
                position = FrameTimecode(frame.index, fps)
                small = pixels(frame.raw, self.side, "bgr24")
                for cuts, detector in zip(found, detectors, strict=True):
                    cuts += [_number(cut) for cut in detector.process_frame(position, small)]
                step = frame.lasts or (frame.time - end if frame.index else step)
                times.append(frame.time)
                count, end = frame.index + 1, frame.time
        for cuts, detector in zip(found, detectors, strict=True):
            cuts += [_number(cut) for cut in detector.post_process(position)]
        faded: set[int] = set()
        for i in range(len(fades)):
            faded |= _fade_cuts(found[1 + 2 * i], found[2 + 2 * i], round(_LONGEST_FADE_S * fps))
        # A fade looks like a change too, at one of its ends; its middle is where it is cut.
        hard = {cut for cut in found[0] if all(abs(cut - fade) >= shortest for fade in faded)}
        chosen = _spaced(sorted(hard | faded), count, shortest)
        return chosen, [round(times[cut], 5) for cut in chosen], count, round(end + step, 5)

    def _detectors(self, shortest: int) -> tuple[Any, list[tuple[Any, Any]]]:
        """What finds changes, and pairs that find where fades through black and white begin and
        end."""
        from scenedetect.detectors import AdaptiveDetector, ContentDetector, ThresholdDetector

        if self.detector == "adaptive":
            main: Any = AdaptiveDetector(
                adaptive_threshold=self.threshold or 3.0, min_scene_len=shortest
            )
        else:
            main = ContentDetector(threshold=self.threshold or 27.0, min_scene_len=shortest)
        if not self.fade_level:
            return main, []
        kinds = (
            (self.fade_level, ThresholdDetector.Method.FLOOR),
            (255 - self.fade_level, ThresholdDetector.Method.CEILING),
        )
        return main, [
            tuple(
                ThresholdDetector(level, min_scene_len=shortest, fade_bias=bias, method=method)
                for bias in (-1.0, 1.0)
            )
            for level, method in kinds
        ]


def _fade_cuts(begins: Sequence[int], ends: Sequence[int], longest: int) -> set[int]:
    """The middle of each short dark stretch; what stays dark for longer is a shot of its own."""
    cuts: set[int] = set()
    for begin, end in zip(begins, ends, strict=False):
        cuts |= {(begin + end) // 2} if end - begin <= longest else {begin, end}
    return cuts


def _number(cut: Any) -> int:
    return int(cut.frame_num)


def _spaced(cuts: Sequence[int], count: int, shortest: int) -> list[int]:
    """Cuts that leave no shot shorter than `shortest` frames; the earlier of two stays."""
    kept: list[int] = []
    last = 0
    for cut in cuts:
        if cut - last >= shortest and count - cut >= shortest:
            kept.append(cut)
            last = cut
    return kept
