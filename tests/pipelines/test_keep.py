"""Keep: first rule broken is the reason, quantiles, nulls, captions of one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from memory_workspace import MemoryWorkspace, run_global

from gristmill.errors import ConfigurationError
from gristmill.pipelines.keep import Keep

SCHEMA = pa.schema(
    [
        *[pa.field(name, pa.string()) for name in ("uid", "image_id")],
        pa.field("row", pa.int64()),
        pa.field("score", pa.float32()),
        pa.field("flag", pa.bool_()),
    ]
)


def keep(rows: list[tuple[float | None, bool | None]], folder: Path, **fields: Any) -> list[Any]:
    """(verdict, reason, value) of rows (score, flag); two rows share an image."""
    table = pa.Table.from_pylist(
        [
            {"uid": f"u{i:03d}", "image_id": f"i{i // 2}", "row": i, "score": score, "flag": flag}
            for i, (score, flag) in enumerate(rows)
        ],
        SCHEMA,
    )
    middle = len(rows) // 2
    workspace = MemoryWorkspace([table.slice(0, middle), table.slice(middle)], folder)
    stage = Keep(**fields)
    stage.check()
    found = run_global(stage, workspace).sort_by("uid").to_pylist()
    assert len(found) == len(rows)
    return [(row["verdict"], row["reason"], row["value"]) for row in found]


def test_the_first_rule_that_a_row_breaks_is_its_reason(tmp_path: Path) -> None:
    rules = {"low": "score < 0.5", "flagged": "flag"}
    found = keep([(0.1, True), (0.9, True), (0.9, False), (0.2, False)], tmp_path, rules=rules)
    assert found == [
        ("dropped", "low", "score=0.1"),
        ("dropped", "flagged", "flag=true"),
        ("kept", None, None),
        ("dropped", "low", "score=0.2"),
    ]


def test_without_rules_the_columns_have_their_types_all_the_same(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"uid": "u0", "image_id": "i0", "row": 0}], SCHEMA)
    found = run_global(Keep(), MemoryWorkspace([table], tmp_path))
    assert all(found.schema.field(field.name).type == field.type for field in Keep().writes())
    assert found["verdict"].to_pylist() == ["kept"]


def test_a_quantile_is_over_rows_with_a_value(tmp_path: Path) -> None:
    scores = [float(i) for i in range(10)] + [None, float("nan")]
    found = keep(
        [(s, None) for s in scores], tmp_path, rules={"low": "score < quantile(score, 0.5)"}
    )
    assert [verdict for verdict, _, _ in found[:10]] == ["dropped"] * 5 + ["kept"] * 5
    assert [reason for _, reason, _ in found[10:]] == ["no value", "no value"]
    assert found[10][2] == "low: score=null", "which rule, and which column had no value"


def test_missing_values_can_be_kept(tmp_path: Path) -> None:
    found = keep(
        [(None, None), (0.1, None)], tmp_path, rules={"low": "score < 0.5"}, missing="keep"
    )
    assert [verdict for verdict, _, _ in found] == ["kept", "dropped"]


def test_the_value_of_a_quantile_equals_numpy(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=101).astype(np.float32)
    rows = [(float(v), None) for v in values]
    found = keep(rows, tmp_path, rules={"low": "score < quantile(score, 0.3)"})
    border = np.quantile(values.astype(np.float64), 0.3)
    assert [verdict == "dropped" for verdict, _, _ in found] == list(values < border)


@pytest.mark.parametrize(
    ("captions", "kept"), [("all", {"u000", "u001", "u002", "u003"}), ("first", {"u000", "u002"}),
                           ("best", {"u001", "u002"})]
)  # fmt: skip
def test_captions_of_one_image(captions: str, kept: set[str], tmp_path: Path) -> None:
    rows = [(0.6, None), (0.9, None), (0.8, None), (0.7, None)]
    found = keep(rows, tmp_path, rules={"low": "score < 0.1"}, captions=captions, best_by="score")
    assert {f"u{i:03d}" for i, one in enumerate(found) if one[0] == "kept"} == kept
    merged = [one for one in found if one[0] == "merged"]
    assert all(one[2] in kept for one in merged) and len(merged) == 4 - len(kept)


# Rows of eleven parts: captions of an image in several of them, one part without rows.
PARTS = [
    pa.Table.from_pylist(
        [
            {
                "uid": f"u{part}-{i}", "image_id": f"i{(part * 7 + i) % 13}", "row": part,
                "score": None if i == 4 else (part * 31 + i * 17) % 101 / 100, "flag": i % 5 == 2,
            }
            for i in range(0 if part == 6 else 9)
        ],
        SCHEMA,
    )
    for part in range(11)
]  # fmt: skip


@pytest.mark.parametrize(
    ("captions", "missing"), [("all", "drop"), ("first", "keep"), ("best", "drop")]
)
def test_how_many_tasks_and_buckets_there_are_decides_nothing(
    captions: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = {
        "low": "score < quantile(score, 0.2)", "flagged": "flag", "lower": "score < 0.01",
        "above all others of its row": "score >= max(score) OVER (PARTITION BY row)",
    }  # fmt: skip
    found = []
    for size, bucket, names in ((100, 100, 4), (3, 6, 4), (100, 100, 3), (4, 3, 3)):
        monkeypatch.setattr("gristmill.pipelines.keep.PARTS_A_TASK", size)
        monkeypatch.setattr("gristmill.pipelines.keep.PARTS_A_BUCKET", bucket)
        some = dict(list(rules.items())[:names])
        stage = Keep(rules=some, captions=captions, best_by="score", missing=missing)
        workspace = MemoryWorkspace(PARTS, tmp_path / f"{size}-{bucket}-{names}")
        table = run_global(stage, workspace)
        saved = [workspace.load_table(name) for name in ("rules", "counts", "quantiles")]
        found.append((table, *saved))
    whole, apart, plain, *others = found
    for table, saved in zip(whole, apart, strict=True):
        assert table.equals(saved), "a rule that looks at other rows sees all of them"
    for other in others:
        for table, saved in zip(plain, other, strict=True):
            assert table.equals(saved)
    verdicts = plain[0]["verdict"].to_pylist()
    counts = plain[2].to_pylist()[0]
    assert counts["rows"] == len(verdicts) and counts["kept"] == verdicts.count("kept")
    assert (captions == "all") == ("merged" not in verdicts)
    reasons = [row["reason"] for row in plain[0].to_pylist() if row["verdict"] == "dropped"]
    assert {row["rule"]: row["dropped"] for row in plain[1].to_pylist()} == {
        name: reasons.count(name) for name in list(rules)[:3]
    }


def test_rows_come_in_their_order_whatever_their_numbers_are(tmp_path: Path) -> None:
    found = run_global(Keep(rules={"low": "score < 0.5"}), MemoryWorkspace(PARTS, tmp_path))
    assert [f"u{p}-{i}" for p in range(11) if p != 6 for i in range(9)] == found["uid"].to_pylist()


def test_a_column_of_a_quantile_is_part_of_the_value(tmp_path: Path) -> None:
    found = keep([(0.1, None), (0.9, None)], tmp_path, rules={"low": "0.2 < quantile(score, 1)"})
    assert found[0] == ("dropped", "low", "score=0.1")


def test_no_rules_keep_everything(tmp_path: Path) -> None:
    assert {v for v, _, _ in keep([(0.1, None), (None, None)], tmp_path)} == {"kept"}


def test_a_quote_in_a_reason_is_a_quote(tmp_path: Path) -> None:
    found = keep([(0.1, None), (0.9, None)], tmp_path, rules={'it\'s "low"': "score < 0.5"})
    assert found[0][1] == 'it\'s "low"'


def test_wrong_fields_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="quantile 70 is not between 0 and 1"):
        Keep(rules={"low": "score < quantile(score, 70)"}).check()
    with pytest.raises(ConfigurationError, match="choose one of all, first, best"):
        Keep(captions="some").check()


def saved_rules(folder: Path, rules: dict[str, str], scores: list[float | None]) -> list[Any]:
    table = pa.Table.from_pylist(
        [
            {"uid": f"u{i}", "image_id": f"i{i}", "row": i, "score": score, "flag": None}
            for i, score in enumerate(scores)
        ],
        SCHEMA,
    )
    workspace = MemoryWorkspace([table], folder)
    run_global(Keep(rules=rules), workspace)
    return workspace.load_table("rules").to_pylist()


def test_a_rule_whose_rows_an_earlier_one_took_names_it(tmp_path: Path) -> None:
    rules = {"lowest": "score < 0.2", "low": "score < 0.5", "lower": "score < 0.3"}
    found = saved_rules(tmp_path, rules, [0.1, 0.25, 0.4, 0.9])
    assert [(row["dropped"], row["broken"], row["taken_by"]) for row in found] == [
        (1, 1, None),
        (2, 3, None),
        (0, 2, "low"),
    ]


def test_no_value_is_counted_for_the_rule_that_lacks_it(tmp_path: Path) -> None:
    found = saved_rules(tmp_path, {"a": "uid = 'u9'", "b": "score < 0.2"}, [0.1, None, None, 0.9])
    assert [row["no_value"] for row in found] == [0, 2]


def test_a_rule_with_an_apostrophe_in_its_name(tmp_path: Path) -> None:
    found = keep([(0.1, None)] * 2, tmp_path, rules={"it's low": "score < 0.5"})
    assert found[0][:2] == ("dropped", "it's low")
