"""What rules did to lists that came one after the other is added up."""

from __future__ import annotations

import pyarrow as pa

from gristmill.pipelines.rule_counts import COUNTS, RULES, add_counts, add_rules


def rules(dropped: list[int], taken_by: list[str | None]) -> pa.Table:
    names = {"rule": ["a", "b"], "sql": ["x > 1", "y > 1"], "resolved": ["x > 1", "y > 1"]}
    counts = {name: dropped for name in ("dropped", "broken", "no_value")}
    return pa.table({**names, **counts, "taken_by": taken_by}, schema=RULES)


def test_counts_are_added_and_who_took_most_is_who_did_last() -> None:
    found = add_rules(rules([2, 0], [None, "a"]), rules([1, 0], [None, None]))
    assert found["dropped"].to_pylist() == found["broken"].to_pylist() == [3, 0]
    assert found["taken_by"].to_pylist() == [None, "a"] and found.schema == RULES
    # Of a rule that dropped something nobody took all.
    found = add_rules(rules([0, 0], ["b", None]), rules([1, 0], [None, None]))
    assert found["taken_by"].to_pylist() == [None, None]


def test_reasons_that_are_no_rule() -> None:
    first = {"rows": [9], "kept": [5], "others": [["forgotten"]], "others_dropped": [[4]]}
    second = {
        "rows": [3], "kept": [0],
        "others": [["forgotten", "no value"]], "others_dropped": [[1, 2]],
    }  # fmt: skip
    tables = [pa.table(one, schema=COUNTS) for one in (first, second)]
    assert add_counts(*tables).to_pylist() == [
        {"rows": 12, "kept": 5, "others": ["forgotten", "no value"], "others_dropped": [5, 2]}
    ]
