"""Verdicts of rules over rows that lie in a database, and what each rule did; see `Keep`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.pipelines.database import sql_name, sql_text
from gristmill.pipelines.rules import columns_in

KEPT = "kept"
DROPPED = "dropped"
MERGED = "merged"
NO_VALUE = "no value"
MERGED_REASON = "another caption of the image was chosen"

_OUTCOMES = pa.schema(
    [
        # rows, kept, dropped (by reason), broken, no_value, taken (of a rule, by reason).
        pa.field("what", pa.string()),
        # Its number; -1 if it is about none.
        pa.field("rule", pa.int32()),
        pa.field("reason", pa.string()),
        pa.field("count", pa.int64()),
    ]
)


def with_places(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Batches that have `part`, with the place of each row in its part, from 0."""
    schema = reader.schema.append(pa.field("place", pa.int64()))

    def read() -> Iterator[pa.RecordBatch]:
        current, seen = -1, 0
        for batch in reader:
            parts = batch.column("part").to_numpy()
            places = np.empty(len(parts), np.int64)
            for part in np.unique(parts).tolist():
                here = np.flatnonzero(parts == part)
                if part != current:
                    current, seen = part, 0
                places[here] = np.arange(seen, seen + len(here))
                seen += len(here)
            yield pa.RecordBatch.from_arrays([*batch.columns, pa.array(places)], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, read())


def clean_sql(column: pa.Field) -> str:
    """A column with NaN as NULL."""
    name = sql_name(column.name)
    if pa.types.is_floating(column.type):
        return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}"
    return name


def quantile(database: duckdb.DuckDBPyConnection, column: str, q: float) -> float | None:
    """The quantile `q` of a column of the table `rows`, where it has a value; None if it has none.

    Of equal shares between two values, as `numpy.quantile` gives it.
    """
    name = sql_name(column)
    row = database.execute(
        f"SELECT quantile_cont({name}, {q}) FROM rows WHERE {name} IS NOT NULL"
    ).fetchone()
    return None if row is None or row[0] is None else float(row[0])


def verdict_sql(
    rules: Mapping[str, str], resolved: Mapping[str, str], names: Sequence[str], *, drop: bool
) -> str:
    """SELECT that gives each row of the table `rows` the first rule it breaks; rules are evaluated
    once each, a rule without a value drops the row if `drop`.

    `resolved`: the same rules with the values of their quantiles; `names`: columns they may name.
    """
    flags = "".join(f", ({sql}) AS broken_{i}" for i, sql in enumerate(resolved.values()))
    reason = " WHEN first_reason IS NOT NULL THEN first_reason"
    missing = " WHEN first_reason IS NOT NULL THEN NULL"
    # Text, also where no rule gives one.
    value = " WHEN first_reason IS NOT NULL THEN NULL::VARCHAR"
    for i, (name, rule) in enumerate(rules.items()):
        named = columns_in(rule, names)
        if drop:
            reason += f" WHEN broken_{i} IS NULL THEN {sql_text(NO_VALUE)}"
            value += f" WHEN broken_{i} IS NULL THEN {sql_text(name + ': ')} || "
            value += _value_sql(named)
            missing += f" WHEN broken_{i} IS NULL THEN {i}"
        reason += f" WHEN broken_{i} THEN {sql_text(name)}"
        value += f" WHEN broken_{i} THEN {_value_sql(named)}"
        missing += f" WHEN broken_{i} THEN NULL"
    return (
        f"SELECT *, CASE WHEN reason IS NULL THEN '{KEPT}' ELSE '{DROPPED}' END AS verdict FROM ("
        f"SELECT *, CASE{reason} END AS reason, CASE{value} END AS value, "
        f"CASE{missing} END AS missing_rule FROM (SELECT *{flags} FROM rows))"
    )


def _value_sql(named: Sequence[str]) -> str:
    """SQL for the text of the columns a rule names, as `column=value`."""
    pieces = [
        f"{sql_text(name + '=')} || coalesce(CAST({sql_name(name)} AS VARCHAR), 'null')"
        for name in named
    ]
    return " || ', ' || ".join(pieces) if pieces else "''"


def outcomes(database: duckdb.DuckDBPyConnection, rules: int) -> pa.Table:
    """What the rules did to the rows of the table `verdicts`: counts, to be added up."""
    of_rules = "".join(
        f", count(*) FILTER (broken_{i}), count(*) FILTER (missing_rule = {i})"
        for i in range(rules)
    )
    found: list[tuple[str, int, str | None, int]] = []
    for reason, count, *by_rule in database.execute(
        f"SELECT reason, count(*){of_rules} FROM verdicts GROUP BY reason ORDER BY reason"
    ).fetchall():
        found.append(("rows", -1, None, count))
        found.append(
            ("kept", -1, None, count) if reason is None else ("dropped", -1, reason, count)
        )
        for i in range(rules):
            broken, missing = by_rule[2 * i : 2 * i + 2]
            found.append(("broken", i, None, broken))
            found.append(("no_value", i, None, missing if reason == NO_VALUE else 0))
            found.append(("taken", i, reason, broken if reason is not None else 0))
    columns = zip(*(row for row in found if row[-1]), strict=True)
    names = _OUTCOMES.names
    values = dict(zip(names, columns, strict=True)) if found else {name: [] for name in names}
    return pa.table(values, schema=_OUTCOMES)


@dataclass
class Outcomes:
    """What the rules did, over all rows; rules by their numbers."""

    rows: int = 0
    kept: int = 0
    # Reason -> rows that it dropped.
    dropped: Counter[str] = field(default_factory=Counter)
    # Rows for which a rule is true, whether or not an earlier one took them.
    broken: Counter[int] = field(default_factory=Counter)
    # Rows dropped because a rule had no value.
    no_value: Counter[int] = field(default_factory=Counter)
    # (rule, reason) -> rows that the rule means and the reason took.
    taken: Counter[tuple[int, str]] = field(default_factory=Counter)

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> Outcomes:
        """The sum of what tasks counted."""
        found = cls()
        for table in tables:
            for what, rule, reason, count in zip(
                *(table[name].to_pylist() for name in _OUTCOMES.names), strict=True
            ):
                if what in ("rows", "kept"):
                    setattr(found, what, getattr(found, what) + count)
                else:
                    key = {"dropped": reason, "taken": (rule, reason)}.get(what, rule)
                    getattr(found, what)[key] += count
        return found

    def taken_by(self, rule: int, name: str) -> str | None:
        """The reason that took most of the rows that a rule means, if others took them all."""
        if not self.broken[rule] or self.dropped[name]:
            return None
        found = [(-count, reason) for (i, reason), count in self.taken.items() if i == rule]
        return min(found)[1] if found else None


def tables_of_parts(reader: pa.RecordBatchReader, parts: range) -> Iterator[tuple[int, pa.Table]]:
    """Rows that come ordered by `part`, as a table for each of the parts, also those without."""
    schema = pa.schema([field for field in reader.schema if field.name != "part"])
    pending: list[pa.RecordBatch] = []
    current = parts.start
    for batch in reader:
        numbers = batch.column("part").to_numpy(zero_copy_only=False)
        rest = batch.drop_columns(["part"])
        for part in np.unique(numbers).tolist():
            while current < part:
                yield current, pa.Table.from_batches(pending, schema)
                pending, current = [], current + 1
            here = np.flatnonzero(numbers == part)
            pending.append(rest.slice(int(here[0]), len(here)))
    while current < parts.stop:
        yield current, pa.Table.from_batches(pending, schema)
        pending, current = [], current + 1


def with_merged(verdicts: pa.Table, places: NDArray[np.int64], chosen: Sequence[str]) -> pa.Table:
    """Verdicts of a part, of which the rows at `places` are merged into others."""
    for name, values in (
        ("verdict", [MERGED] * len(chosen)),
        ("reason", [MERGED_REASON] * len(chosen)),
        ("value", list(chosen)),
    ):
        column = verdicts[name].to_pylist()
        for place, value in zip(places.tolist(), values, strict=True):
            column[place] = value
        at = verdicts.schema.get_field_index(name)
        kind = verdicts.schema.field(at)
        verdicts = verdicts.set_column(at, kind, pa.array(column, kind.type))
    return verdicts


def pack_texts(texts: pa.ChunkedArray) -> dict[str, NDArray[np.generic]]:
    """Texts as arrays: their bytes, and where each ends."""
    data = [text.encode() for text in texts.to_pylist()]
    ends = np.cumsum([len(one) for one in data], dtype=np.int64)
    return {"text": np.frombuffer(b"".join(data), np.uint8), "ends": ends}


def unpack_texts(packed: Mapping[str, NDArray[np.generic]]) -> list[str]:
    """What `pack_texts` put together."""
    data, ends = packed["text"].tobytes(), packed["ends"].tolist()
    return [data[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]
