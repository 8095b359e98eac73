"""What the rules of a Keep node did, as two tables; those of lists that came one after the other
are added up."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

COUNTS = pa.schema(
    [
        pa.field("rows", pa.int64()),
        pa.field("kept", pa.int64()),
        pa.field("others", pa.list_(pa.string())),
        pa.field("others_dropped", pa.list_(pa.int64())),
    ]
)


RULES = pa.schema(
    [
        pa.field("rule", pa.string()),
        pa.field("sql", pa.string()),
        pa.field("resolved", pa.string()),
        pa.field("dropped", pa.int64()),
        # Rows for which the rule is true, whether or not an earlier one took them; where that is
        # all of them, the reason that took the most.
        pa.field("broken", pa.int64()),
        pa.field("taken_by", pa.string()),
        # Rows dropped because this rule had no value.
        pa.field("no_value", pa.int64()),
    ]
)


def add_rules(before: pa.Table, now: pa.Table) -> pa.Table:
    """What the same rules did to both. Who took the most of a rule that dropped none is who did so
    last."""
    columns = {name: now[name] for name in now.column_names}
    for name in ("dropped", "broken", "no_value"):
        columns[name] = pc.add(before[name], now[name])
    took = pc.coalesce(now["taken_by"], before["taken_by"])
    columns["taken_by"] = pc.if_else(pc.greater(columns["dropped"], 0), None, took)
    return pa.table(columns, schema=RULES)


def add_counts(before: pa.Table, now: pa.Table) -> pa.Table:
    """Rows, those kept, and those that other reasons dropped, of both."""
    dropped: Counter[str] = Counter()
    for one in (*before.to_pylist(), *now.to_pylist()):
        for name, count in zip(one["others"], one["others_dropped"], strict=True):
            dropped[name] += count
    names = sorted(dropped)
    facts = {
        **{name: pc.add(before[name], now[name]) for name in ("rows", "kept")},
        "others": [names],
        "others_dropped": [[dropped[name] for name in names]],
    }
    return pa.table(facts, schema=COUNTS)
