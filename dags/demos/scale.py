"""How large a demo is: what `make demo` and `make demo-full` differ in, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The numbers of a demo of pictures. Every stage and every kind of fault is in each."""

    name: str
    # Clean pictures in the little web; faults come in proportion.
    scenes: int
    # Objects of a scene, at most.
    objects: int
    # Pairs that the filter network is trained on, and those that its threshold is taken from.
    trusted: int
    held_out: int
    filter_steps: int
    # Codes of the image codec.
    codes: int
    runner: str
    part_rows: int
    # Seconds for one download.
    timeout_s: float
    # The model's size, and the shares of what it is taught.
    size: str
    tasks: dict[str, float]
    # Steps of the optimiser, and what a step is made of.
    steps: int
    rows_per_step: int
    row_length: int
    rate: float
    warmup: int
    average: float
    # Scenes that judge the model.
    judged: int
    # Seconds of the steps, as one machine of two cores took them: how they share the whole.
    seconds: tuple[float, float, float, float, float]


FULL = Scale(
    name="full", scenes=16_000, objects=2, trusted=1800, held_out=1000, filter_steps=150,
    codes=2048, runner="ray", part_rows=600, timeout_s=6, size="tiny",
    tasks={"draw": 0.5, "describe": 0.2, "answer": 0.3}, steps=1150, rows_per_step=40,
    row_length=104, rate=1e-2, warmup=50, average=0.998, judged=256,
    seconds=(42, 123, 250, 1120, 43),
)  # fmt: skip
SMALL = Scale(
    name="small", scenes=2000, objects=1, trusted=700, held_out=300, filter_steps=50,
    codes=512, runner="local", part_rows=1000, timeout_s=3, size="micro",
    tasks={"draw": 0.4, "describe": 0.45, "answer": 0.15}, steps=300, rows_per_step=32,
    row_length=104, rate=1.5e-2, warmup=25, average=0.99, judged=128,
    seconds=(8, 41, 49, 92, 9),
)  # fmt: skip


def choose_scale(*, full: bool, scenes: int | None = None, steps: int | None = None) -> Scale:
    """The scale asked for, with its scenes and its steps of training replaced where given."""
    scale = FULL if full else SMALL
    return replace(
        scale,
        scenes=scale.scenes if scenes is None else scenes,
        steps=scale.steps if steps is None else steps,
    )
