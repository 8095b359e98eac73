"""The judge: a fault that is missed and one that is seen where there is none are both counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from gristmill.dags.demos.truth import CAUGHT_AS, COPY_KINDS, area_under_curve, judge_rows
from gristmill.dags.demos.web import CLEAN, PLANTED


def made(fault: str, reason: str | None, **facts: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    uid = facts.pop("uid")
    row = {"uid": uid, "fault": fault, "group": facts.pop("group", uid)}
    return row, {"reason": reason, "kind": None, "clip_score": None, **facts}


def test_the_judge_counts_misses_and_false_alarms() -> None:
    pairs = [
        made(CLEAN, None, uid="a", clip_score=0.9),
        made(CLEAN, "http 404", uid="b", clip_score=0.8),
        made(CLEAN, "copy of another image", uid="c", kind="near"),
        made("dead link", "http 404", uid="d"),
        made("dead link", None, uid="e"),
        made("near copy", None, uid="f", group="a"),
        made("wrong caption", "weak caption match", uid="g", clip_score=0.85),
        made("exact copy", "copy of another image", uid="h", group="b", kind="bytes"),
    ]
    outcomes = {row["uid"]: outcome for row, outcome in pairs}
    found = judge_rows([row for row, _ in pairs], outcomes, repeated=0)
    counts = {f: (x["planted"], x["caught"], x["false_alarms"]) for f, x in found["truth"].items()}
    assert counts["dead link"] == (2, 1, 1)
    assert counts["near copy"] == (1, 0, 1)
    assert counts["exact copy"] == (1, 1, 0)
    assert counts["wrong caption"] == (1, 1, 0)
    assert found["wrong_caption_auc"] == 0.5
    assert set(PLANTED) == {*CAUGHT_AS, *COPY_KINDS}


def test_area_under_the_curve() -> None:
    rng = np.random.default_rng(0)
    assert area_under_curve(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert area_under_curve(np.array([1.0]), np.array([1.0])) == 0.5
    assert abs(area_under_curve(rng.normal(size=500), rng.normal(size=500)) - 0.5) < 0.05
