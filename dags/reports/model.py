"""What a report says of a model that was trained on the run: scores, curves, what it drew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from gristmill.pipelines.storage import Folder

_SCORES = {
    "picture_exact": "pictures drawn exactly as asked",
    "picture_exact_shuffled": "the same pictures against other prompts (control)",
    "codec_ceiling": "clean pictures after the codec alone (ceiling)",
    "caption_exact": "captions that say exactly what is there",
    "answer_exact_without_existence": "answers right, existence aside",
    "answer_exact": "answers right",
    "cycle_exact": "drawn pictures that it describes as asked",
}
_HELD_OUT = {
    "picture_exact": "pictures with a pair it never saw together",
    "caption_exact": "captions of such pictures",
}
# Said wherever the scores of held-out pairs are shown: without it they look like a failure.
HELD_OUT_SAID = (
    "Held-out pairs: four pairs of colour and shape (a red star, a green circle, a blue triangle, "
    "a yellow square) are never seen together in training, though each colour and each shape is. "
    "They ask whether a model composes what it knows; one of this size does not, so about 0 % is "
    "what to expect."
)
_CURVES = {
    "loss_codes": "loss of image codes",
    "loss_text": "loss of text",
    "rate": "learning rate",
}
_WIDTH, _HEIGHT = 300.0, 96.0


@dataclass(frozen=True)
class Shown:
    """A picture with its words, and whether they belong together."""

    words: str
    src: str
    right: bool


@dataclass(frozen=True)
class Curve:
    """One quantity over the steps, as points of a drawing of 300 x 96."""

    title: str
    points: str
    steps: int
    first: float
    last: float
    most: float


@dataclass(frozen=True)
class ModelReport:
    """A trained model, for a person."""

    scores: Sequence[tuple[str, float]]
    steps: int
    scenes: int
    tokens_per_s: float
    drawn: Sequence[Shown]
    described: Sequence[Shown]
    curves: Sequence[Curve]
    held_out: str


class LogLine(TypedDict, total=False):
    """A line of a training's log; losses that a step has none of are null or left out."""

    step: int
    tokens_per_s: float
    loss_codes: float | None
    loss_text: float | None
    rate: float | None


def gather_model(run: Folder) -> ModelReport | None:
    """What lies in `model/` and `evaluation.json` of a run; None if no model was trained there."""
    if not run.exists("evaluation.json") or not run.exists("model/showcase.json"):
        return None
    scores, showcase = run.read_json("evaluation.json"), run.read_json("model/showcase.json")
    lines: list[LogLine] = [
        json.loads(line) for line in run.read_bytes("model/log.jsonl").splitlines()
    ]
    named = [(said, scores[name]) for name, said in _SCORES.items()]
    named += [(said, scores["held_out"][name]) for name, said in _HELD_OUT.items()]
    speeds = sorted(line["tokens_per_s"] for line in lines)
    return ModelReport(
        scores=named,
        steps=scores["steps"],
        scenes=scores["scenes"],
        tokens_per_s=speeds[len(speeds) // 2] if speeds else 0.0,
        drawn=[Shown(**one) for one in showcase["drawn"]],
        described=[Shown(**one) for one in showcase["described"]],
        held_out=HELD_OUT_SAID,
        curves=[curve for name, title in _CURVES.items() if (curve := _curve(lines, name, title))],
    )


def _curve(lines: Sequence[LogLine], name: str, title: str) -> Curve | None:
    found = [
        (line["step"], value) for line in lines if isinstance(value := line.get(name), (int, float))
    ]
    if len(found) < 2:
        return None
    # A drawing of 300 units shows no more points than that.
    stride = max(1, len(found) // 150)
    chosen = found[::stride]
    last_step, most = found[-1][0], max(value for _, value in found) or 1.0
    points = " ".join(
        f"{_WIDTH * step / last_step:.1f},{_HEIGHT * (1 - value / most):.1f}"
        for step, value in chosen
    )
    return Curve(title, points, last_step, found[0][1], found[-1][1], most)
