"""What was planted against what was caught: recall and precision of every rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gristmill.dags.demos.web import CLEAN, CONTROLS, PLANTED
from gristmill.dags.demos.web_server import Web
from gristmill.dags.engine.cut_record import parts_done
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.runs.plan import open_run

COPY = "copy of another image"


class TruthRow(TypedDict):
    """One row of a little web: its uid, what is wrong with it, and what it is a copy of (its own
    page's number otherwise)."""

    uid: str
    fault: str
    group: int


class Outcome(TypedDict):
    """What became of a row; `reason` is None if it was kept, `kind` that of its copy."""

    reason: str | None
    kind: str | None
    clip_score: float | None


class FaultCounts(TypedDict):
    """What was planted of a fault, and what was caught; `caught_by` is [[reason, rows], ...]."""

    planted: int
    caught: int
    false_alarms: int
    caught_by: list[list[str | int]]


class Judgement(TypedDict):
    """Fault -> counts, and how well the scores of wrong captions tell them from right ones."""

    truth: dict[str, FaultCounts]
    wrong_caption_auc: float


class DemoSummary(RunSummary, Judgement):
    """`summary.json` of a demo; `model` holds the scores of what was trained."""

    model: NotRequired[dict[str, object]]


# Fault -> reasons that count as catching it.
CAUGHT_AS: dict[str, tuple[str, ...]] = {
    "dead link": ("http 404", "http 410", "http 500"),
    "refused connection": ("connection refused",),
    "drip": ("timed out",),
    "html for image": ("html instead of image",),
    "empty body": ("empty body",),
    "truncated file": ("truncated image",),
    "decompression bomb": ("decompression bomb",),
    "redirect to a private address": tuple(
        f"redirect to a {kind} address"
        for kind in ("private", "loopback", "metadata", "link-local")
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


def judge(found: Web, out: str) -> Judgement:
    """{"truth": {fault: counts}, "wrong_caption_auc": float} of a finished run over a little
    web."""
    truth = pq.read_table(found.truth).to_pylist()
    outcomes, repeated = _fates(out)
    return judge_rows(truth, outcomes, repeated)


def judge_rows(
    truth: Sequence[TruthRow], outcomes: Mapping[str, Outcome], repeated: int
) -> Judgement:
    """`truth`: what was planted; `outcomes`: uid -> what became of it; `repeated`: how many rows
    were dropped as repeated."""
    rows = [row for row in truth if row["fault"] != "repeated row"]
    result: dict[str, FaultCounts] = {}
    for fault in PLANTED:
        mine = [row for row in truth if row["fault"] == fault]
        if fault == "repeated row":
            right = min(repeated, len(mine))
            by = {"repeated row": right}
            result[fault] = _counts(len(mine), right, repeated - right, by)
        elif fault in CAUGHT_AS:
            result[fault] = _judge_plain(fault, mine, rows, outcomes)
        else:
            result[fault] = _judge_copies(fault, mine, rows, outcomes)
    wrong = _scores([row for row in rows if row["fault"] == "wrong caption"], outcomes)
    clean = _scores([row for row in rows if row["fault"] in (CLEAN, *CONTROLS)], outcomes)
    return {"truth": result, "wrong_caption_auc": round(area_under_curve(clean, wrong), 5)}


def _counts(planted: int, caught: int, false: int, by: Mapping[str, int]) -> FaultCounts:
    ordered = sorted(by.items(), key=lambda item: (-item[1], item[0]))
    return {
        "planted": planted,
        "caught": caught,
        "false_alarms": false,
        "caught_by": [list(item) for item in ordered],
    }


def _judge_plain(
    fault: str,
    mine: Sequence[TruthRow],
    rows: Sequence[TruthRow],
    outcomes: Mapping[str, Outcome],
) -> FaultCounts:
    by: dict[str, int] = {}
    for row in mine:
        reason = outcomes[row["uid"]]["reason"]
        if reason is not None and reason in CAUGHT_AS[fault]:
            by[reason] = by.get(reason, 0) + 1
    false = sum(
        row["fault"] != fault and outcomes[row["uid"]]["reason"] in CAUGHT_AS[fault] for row in rows
    )
    return _counts(len(mine), sum(by.values()), false, by)


def _judge_copies(
    fault: str,
    mine: Sequence[TruthRow],
    rows: Sequence[TruthRow],
    outcomes: Mapping[str, Outcome],
) -> FaultCounts:
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


def _scores(rows: Sequence[TruthRow], outcomes: Mapping[str, Outcome]) -> NDArray[np.float64]:
    found = [outcomes[row["uid"]]["clip_score"] for row in rows]
    return np.array([score for score in found if score is not None], np.float64)


def area_under_curve(positive: NDArray[np.float64], negative: NDArray[np.float64]) -> float:
    """Chance that a positive scores above a negative; ties count half."""
    if not len(positive) or not len(negative):
        return 0.5
    above = (positive[:, None] > negative[None]).mean()
    equal = (positive[:, None] == negative[None]).mean()
    return float(above + equal / 2)


def _fates(out: str) -> tuple[dict[str, Outcome], int]:
    """What became of each uid, and how many rows were dropped as repeated."""
    layout = open_run(out)
    parts = parts_done(layout) or 0
    reader = RowReader(layout)
    outcomes: dict[str, Outcome] = {}
    repeated = 0
    for part in range(parts):
        for row in layout.folder.read_table(f"ledger/{part:06d}.parquet").to_pylist():
            if row["reason"] == "repeated row":
                repeated += 1
                continue
            outcomes[row["uid"]] = {"reason": row["reason"], "kind": None, "clip_score": None}
        columns: pa.Table = reader.entering("keep", part, ["uid", "clip_score", "duplicate_kind"])
        for row in columns.to_pylist():
            outcome = outcomes[row["uid"]]
            outcome["kind"], outcome["clip_score"] = row["duplicate_kind"], row["clip_score"]
    return outcomes, repeated
