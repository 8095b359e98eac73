"""What a training writes into its logs: the keys, and what they hold."""

from __future__ import annotations

from typing import TypedDict


class TrainingSummary(TypedDict):
    """The first line of a log, and what MFU is computed from."""

    summary: str
    flops_per_token: float
    # Of all devices; 0: unknown.
    peak_flops: float


LogLine = dict[str, float | None]
"""Quantity -> value at a step; None where it was no number."""


class LostLine(TypedDict):
    """A line of `lost.jsonl`: a sample that could not be read, and the step that went without."""

    step: int
    shard: str
    key: str
    reason: str
