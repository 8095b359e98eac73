"""What was planted against what was caught: recall and precision of every rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gristmill.dags.demos.web import CLEAN, CONTROLS, PLANTED, Web
from gristmill.dags.engine.read_parts import parts_done
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.runs.plan import open_run

COPY = "copy of another image"
# Fault -> reasons that count as catching it.
CAUGHT_AS: dict[str, tuple[str, ...]] = {
    "dead link": ("http 404", "http 410", "http 500"),
    "refused connection": ("connection refused",),
    "drip": ("timed out",),
    "html for image": ("html instead of image",),
    "empty body": ("empty body",),
    "truncated file": ("truncated image",),
    "decompression bomb": ("decompression bomb",),
    "redirect to a private address": (
        "private address", "loopback address", "metadata address", "link-local address",
    ),
    "redirect loop": ("too many redirects",),
    "robots header": ("disallowed by robots header",),
    "tiny": ("too small",),
    "blank": ("blank",),
    "extreme aspect": ("extreme aspect",),
    "boilerplate caption": ("boilerplate caption",),
    "wrong caption": ("weak caption match",),
    "repeated row": ("repeated row",),
}  # fmt: skip
# Fault -> the kind of copy it is.
COPY_KINDS = {
    "exact copy": "bytes",
    "pixel copy": "pixels",
    "near copy": "near",
    "cropped copy (reported apart)": "near",
    "flipped copy (reported apart)": "near",
}


def judge(found: Web, out: str) -> dict[str, Any]:
    """{"truth": {fault: counts}, "wrong_caption_auc": float} of a finished run over a little
    web."""
    truth = pq.read_table(found.truth).to_pylist()
    return judge_rows(truth, _fates(out))


def judge_rows(
    truth: Sequence[Mapping[str, Any]], outcomes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """`truth`: rows of uid, fault, group; `outcomes`: uid -> reason (None if kept), kind,
    clip_score, and under the key "repeated" how many rows were dropped as repeated."""
    rows = [row for row in truth if row["fault"] != "repeated row"]
    result: dict[str, Any] = {}
    for fault in PLANTED:
        mine = [row for row in truth if row["fault"] == fault]
        if fault == "repeated row":
            caught = int(outcomes["repeated"]["count"])
            right = min(caught, len(mine))
            result[fault] = _counts(len(mine), right, caught - right, {"repeated row": right})
        elif fault in CAUGHT_AS:
            result[fault] = _judge_plain(fault, mine, rows, outcomes)
        else:
            result[fault] = _judge_copies(fault, mine, rows, outcomes)
    wrong = _scores([row for row in rows if row["fault"] == "wrong caption"], outcomes)
    clean = _scores([row for row in rows if row["fault"] in (CLEAN, *CONTROLS)], outcomes)
    return {"truth": result, "wrong_caption_auc": round(area_under_curve(clean, wrong), 5)}


def _counts(planted: int, caught: int, false: int, by: Mapping[str, int]) -> dict[str, Any]:
    ordered = sorted(by.items(), key=lambda item: (-item[1], item[0]))
    return {
        "planted": planted,
        "caught": caught,
        "false_alarms": false,
        "caught_by": [list(item) for item in ordered],
    }


def _judge_plain(
    fault: str,
    mine: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    by: dict[str, int] = {}
    for row in mine:
        reason = outcomes[row["uid"]]["reason"]
        if reason in CAUGHT_AS[fault]:
            by[reason] = by.get(reason, 0) + 1
    false = sum(
        row["fault"] != fault and outcomes[row["uid"]]["reason"] in CAUGHT_AS[fault] for row in rows
    )
    return _counts(len(mine), sum(by.values()), false, by)


def _judge_copies(
    fault: str,
    mine: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    outcomes: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """A pair of original and copy is caught if one of the two went as a copy, whichever; a false
    alarm is a copy, of this kind, of a picture that has none, or a pair of which neither stays."""
    kind = COPY_KINDS[fault]
    original = {row["group"]: row for row in rows if row["fault"] == CLEAN}
    copied = {row["group"] for row in rows if row["fault"] in COPY_KINDS}
    caught = false = 0
    by: dict[str, int] = {}
    for row in mine:
        pair = [outcomes[row["uid"]], outcomes[original[row["group"]]["uid"]]]
        dropped = [outcome for outcome in pair if outcome["reason"] == COPY]
        caught += len(dropped) >= 1
        false += len(dropped) == 2
        for outcome in dropped[:1]:
            name = f"{COPY} ({outcome['kind']})"
            by[name] = by.get(name, 0) + 1
    if fault in ("exact copy", "pixel copy", "near copy"):
        for row in rows:
            outcome = outcomes[row["uid"]]
            alone = row["group"] not in copied
            false += alone and outcome["reason"] == COPY and outcome["kind"] == kind
    return _counts(len(mine), caught, false, by)


def _scores(
    rows: Sequence[Mapping[str, Any]], outcomes: Mapping[str, Mapping[str, Any]]
) -> NDArray[np.float64]:
    found = [outcomes[row["uid"]]["clip_score"] for row in rows]
    return np.array([score for score in found if score is not None], np.float64)


def area_under_curve(positive: NDArray[Any], negative: NDArray[Any]) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    if not len(positive) or not len(negative):
        return 0.5
    above = (positive[:, None] > negative[None]).mean()
    equal = (positive[:, None] == negative[None]).mean()
    return float(above + equal / 2)


def _fates(out: str) -> dict[str, dict[str, Any]]:
    """What became of each uid."""
    layout = open_run(out)
    parts = parts_done(layout) or 0
    reader = RowReader(layout)
    outcomes: dict[str, dict[str, Any]] = {}
    repeated = 0
    for part in range(parts):
        for row in layout.folder.read_table(f"ledger/{part:06d}.parquet").to_pylist():
            if row["reason"] == "repeated row":
                repeated += 1
                continue
            outcomes[row["uid"]] = {"reason": row["reason"], "kind": None, "clip_score": None}
        columns: pa.Table = reader.entering("keep", part, ["uid", "clip_score", "duplicate_kind"])
        for row in columns.to_pylist():
            outcomes[row["uid"]] |= {"kind": row["duplicate_kind"], "clip_score": row["clip_score"]}
    outcomes["repeated"] = {"count": repeated}
    return outcomes
