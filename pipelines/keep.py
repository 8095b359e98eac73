"""Keep: named SQL rules over score columns. The first rule that a row breaks is its reason.

Rules are evaluated by DuckDB over columns that were computed once, so a changed threshold costs
seconds. `quantile(column, q)` in a rule is computed first, over all rows that enter the node and
have a value, and its value is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import duckdb
import pyarrow as pa

from gristmill.errors import ConfigurationError, GraphError
from gristmill.pipelines.database import open_database, read_stream, sql_name, sql_text
from gristmill.pipelines.rules import (
    check_quantiles,
    columns_in,
    range_warnings,
    try_rules,
    with_quantiles,
)
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import (
    Global,
    Phase,
    Workspace,
    missing_column,
    require_choice,
    setting,
)
from gristmill.pipelines.subsets import read_subset

KEPT = "kept"
DROPPED = "dropped"
MERGED = "merged"
NO_VALUE = "no value"
FORGOTTEN = "forgotten"
NOT_IN_SUBSET = "not in the subset"
MERGED_REASON = "another caption of the image was chosen"


@dataclass(frozen=True, kw_only=True)
class Keep(Global):
    """Decide which rows stay.

    A rule is a SQL expression that is TRUE for rows to drop. NaN counts as NULL. A rule whose value
    is NULL drops the row with the reason `no value`, unless `missing` is "keep".
    """

    # Reason -> SQL expression, in the order in which they are tried.
    rules: Mapping[str, str] = field(default_factory=dict)
    # What a rule without a value does with the row.
    missing: str = setting("drop", choices=("drop", "keep"))
    # Which captions of one image stay: all, the first in the source, or the best.
    captions: str = setting("all", choices=("all", "first", "best"))
    # Column that decides which caption is the best; higher is better.
    best_by: str = "clip_score"
    # .npy of uids as DataComp publishes subsets (pairs of uint64: the halves of 128 bits); rows of
    # other uids are dropped first. See `subsets.subset_file`.
    subset: str = ""
    # Where those uids stand: our "uid", or "meta.NAME" for a column of the source.
    subset_by: str = "uid"

    libraries: ClassVar[tuple[str, ...]] = ("duckdb",)

    def writes(self) -> pa.Schema:
        """Verdict (`kept`, `dropped`, `merged`), reason, and the value that decided, as text."""
        return pa.schema(
            [
                pa.field("verdict", pa.string(), nullable=False),
                pa.field("reason", pa.string()),
                pa.field("value", pa.string()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "verdict": ColumnFacts("What became of the row: kept, dropped or merged."),
            "reason": ColumnFacts(
                "The first rule that the row breaks; null for rows that are kept."
            ),
            "value": ColumnFacts("The columns that the rule names, with their values, as text."),
        }

    def files(self) -> tuple[str, ...]:
        """The subset."""
        return (self.subset,) if self.subset else ()

    def check(self) -> None:
        """Validate the choices, the quantiles and the subset."""
        if self.subset:
            read_subset(self.subset)
        if self.subset_by != "uid" and not self.subset_by.startswith("meta."):
            raise ConfigurationError(f"subset_by is {self.subset_by!r}; write uid or meta.NAME")
        require_choice(self, "missing")
        require_choice(self, "captions")
        check_quantiles(self.rules)

    def resolve_columns(self, available: pa.Schema) -> tuple[str, ...]:
        """The columns that the rules name; every rule is tried on a table of no rows."""
        used = self.columns_named(available)
        needed = used | ({self.best_by} if self.captions == "best" else set())
        for name in needed - set(available.names):
            raise GraphError(missing_column("Keep", name, available.names))
        names = [name for name in available.names if name in needed]
        try_rules(self.rules, names, available)
        return tuple(names)

    def columns_named(self, available: pa.Schema) -> set[str]:
        """The columns among `available` that some rule names."""
        return {name for rule in self.rules.values() for name in columns_in(rule, available.names)}

    def range_warnings(self, facts: Mapping[str, ColumnFacts]) -> dict[str, str]:
        """Reason -> warning, for rules that compare a column with what it can never be."""
        return range_warnings(self.rules, facts)

    def phases(self) -> tuple[Phase, ...]:
        """One pass over all columns that the rules name."""
        return (Phase(name="verdicts", count=lambda _: 1, work=self._decide),)

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """Verdicts of a part's rows, in their order."""
        return workspace.load_table(f"verdicts/{part:06d}")

    def _decide(self, workspace: Workspace, _: int) -> None:
        names = self.resolve_columns(workspace.schema)
        gone = workspace.forgotten()
        needed = ["uid", "image_id", "row"]
        needed += ["sha256"] if "sha256" in gone["kind"].to_pylist() else []
        needed += ["meta"] if self.subset and self.subset_by != "uid" else []
        read = [n for n in dict.fromkeys((*needed, *names)) if n in workspace.schema.names]
        with open_database(workspace.scratch(), memory="2GB", is_locked=True) as database:
            own = [name for name in names if name not in needed[:3]]
            clean = ", ".join(_clean(workspace.schema.field(name)) for name in own)
            first = f"CASE {self._first_sql(read)} END AS first_reason"
            select = f"part, uid, image_id, row, {first}{', ' + clean if clean else ''}"
            database.register("gone", gone)
            database.register("chosen", self._chosen())
            made = f"CREATE TEMP TABLE rows AS SELECT {select} FROM entering"
            read_stream(database, "entering", workspace.batches(read), made)
            resolved, quantiles = self._resolve(database)
            database.execute(f"CREATE TEMP TABLE verdicts AS {self._verdict_sql(resolved, names)}")
            self._merge_captions(database)
            counts = _count(database)
            outcomes = [self._outcome(database, i, counts) for i in range(len(self.rules))]
            kept = database.execute(
                f"SELECT count(*), count(*) FILTER (verdict = '{KEPT}') FROM verdicts"
            ).fetchall()
            result = database.sql(
                "SELECT part, uid, verdict, reason, value FROM verdicts ORDER BY part, row"
            )
            _save_parts(workspace, result.to_arrow_reader(10_000))
        columns = {
            "rule": list(self.rules),
            "sql": list(self.rules.values()),
            "resolved": list(resolved.values()),
            "dropped": [counts.get(name, 0) for name in self.rules],
        }
        for name in ("broken", "taken_by", "no_value"):
            columns[name] = [outcome[name] for outcome in outcomes]
        workspace.save_table("rules", pa.table(columns, schema=_RULES))
        rows, staying = kept[0]
        others = [name for name in counts if name not in self.rules]
        facts = {
            "rows": [rows], "kept": [staying],
            # Reasons that are no rule: forgotten, no value, not in the subset.
            "others": [others], "others_dropped": [[counts[name] for name in others]],
        }  # fmt: skip
        workspace.save_table("counts", pa.table(facts, schema=_COUNTS))
        workspace.save_table(
            "quantiles",
            pa.table(
                {"quantile": list(quantiles), "value": list(quantiles.values())},
                schema=pa.schema([("quantile", pa.string()), ("value", pa.float64())]),
            ),
        )

    def _resolve(
        self, database: duckdb.DuckDBPyConnection
    ) -> tuple[dict[str, str], dict[str, float | None]]:
        """Rules with the value of each quantile in its place, and those values."""
        values: dict[str, float | None] = {}

        def value(column: str, q: float) -> str:
            name = f"quantile({column}, {q:g})"
            if name not in values:
                quoted = sql_name(column)
                row = database.execute(
                    f"SELECT quantile_cont({quoted}, {q}) FROM rows WHERE {quoted} IS NOT NULL"
                ).fetchone()
                values[name] = None if row is None or row[0] is None else float(row[0])
            found = values[name]
            return "NULL::DOUBLE" if found is None else f"{found!r}::DOUBLE"

        return {name: with_quantiles(rule, value) for name, rule in self.rules.items()}, values

    def _outcome(
        self, database: duckdb.DuckDBPyConnection, i: int, counts: Mapping[str, int]
    ) -> dict[str, int | str | None]:
        """What the i-th rule would have done alone, and who was faster."""
        name = list(self.rules)[i]
        broken, missing = database.execute(
            f"SELECT count(*) FILTER (broken_{i}), "
            f"count(*) FILTER (reason = {sql_text(NO_VALUE)} AND missing_rule = {i}) FROM verdicts"
        ).fetchall()[0]
        taken = None
        if broken and not counts.get(name):
            taken = database.execute(
                f"SELECT reason FROM verdicts WHERE broken_{i} AND reason IS NOT NULL "
                "GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 1"
            ).fetchone()
        return {"broken": broken, "taken_by": taken and str(taken[0]), "no_value": missing}

    def _chosen(self) -> pa.Table:
        """The uids of the subset."""
        uids = read_subset(self.subset) if self.subset else []
        return pa.table({"uid": pa.array(uids, pa.string())})

    def _first_sql(self, read: Sequence[str]) -> str:
        """WHEN clauses that come before all rules: what was forgotten, what no subset names."""
        clauses = "".join(
            f" WHEN {name} IN (SELECT value FROM gone WHERE kind = '{name}') THEN '{FORGOTTEN}'"
            for name in ("uid", "image_id", "sha256")
            if name in read
        )
        if self.subset:
            by = self.subset_by
            if by != "uid":
                by = f"json_extract_string(meta, {sql_text('$.' + by.removeprefix('meta.'))})"
            clauses += f" WHEN NOT coalesce({by} IN (SELECT uid FROM chosen), FALSE) THEN "
            clauses += sql_text(NOT_IN_SUBSET)
        return clauses

    def _verdict_sql(self, resolved: Mapping[str, str], names: Sequence[str]) -> str:
        """SELECT that gives each row the first rule it breaks; rules are evaluated once each."""
        flags = "".join(f", ({sql}) AS broken_{i}" for i, sql in enumerate(resolved.values()))
        reason = " WHEN first_reason IS NOT NULL THEN first_reason"
        missing = " WHEN first_reason IS NOT NULL THEN NULL"
        # Text, also where no rule gives one.
        value = " WHEN first_reason IS NOT NULL THEN NULL::VARCHAR"
        for i, (name, rule) in enumerate(self.rules.items()):
            named = columns_in(rule, names)
            if self.missing == "drop":
                reason += f" WHEN broken_{i} IS NULL THEN {sql_text(NO_VALUE)}"
                value += f" WHEN broken_{i} IS NULL THEN {sql_text(name + ': ')} || "
                value += _value_sql(named)
                missing += f" WHEN broken_{i} IS NULL THEN {i}"
            reason += f" WHEN broken_{i} THEN {sql_text(name)}"
            value += f" WHEN broken_{i} THEN {_value_sql(named)}"
            missing += f" WHEN broken_{i} THEN NULL"
        broken = "".join(f", broken_{i}" for i in range(len(self.rules)))
        return (
            f"SELECT part, uid, image_id, row, reason, value, missing_rule{broken}, "
            f"{self._best_sql()} AS best, "
            f"CASE WHEN reason IS NULL THEN '{KEPT}' ELSE '{DROPPED}' END AS verdict FROM ("
            f"SELECT *, CASE{reason} END AS reason, CASE{value} END AS value, "
            f"CASE{missing} END AS missing_rule FROM (SELECT *{flags} FROM rows))"
        )

    def _best_sql(self) -> str:
        return sql_name(self.best_by) if self.captions == "best" else "NULL::DOUBLE"

    def _merge_captions(self, database: duckdb.DuckDBPyConnection) -> None:
        """Among the kept captions of one image, keep one; the others are merged into it."""
        if self.captions == "all":
            return
        database.execute(
            f"CREATE TEMP TABLE merged AS SELECT uid, first_value(uid) OVER w AS chosen "
            f"FROM verdicts WHERE verdict = '{KEPT}' "
            "WINDOW w AS (PARTITION BY image_id ORDER BY best DESC NULLS LAST, row)"
        )
        database.execute(
            f"UPDATE verdicts SET verdict = '{MERGED}', reason = {sql_text(MERGED_REASON)}, "
            "value = chosen FROM merged WHERE merged.uid = verdicts.uid AND chosen <> merged.uid"
        )


_COUNTS = pa.schema(
    [
        pa.field("rows", pa.int64()),
        pa.field("kept", pa.int64()),
        pa.field("others", pa.list_(pa.string())),
        pa.field("others_dropped", pa.list_(pa.int64())),
    ]
)


_RULES = pa.schema(
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


def _clean(column: pa.Field) -> str:
    """A column with NaN as NULL."""
    name = sql_name(column.name)
    if pa.types.is_floating(column.type):
        return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}"
    return name


def _value_sql(named: Sequence[str]) -> str:
    """SQL for the text of the columns a rule names, as `column=value`."""
    pieces = [
        f"{sql_text(name + '=')} || coalesce(CAST({sql_name(name)} AS VARCHAR), 'null')"
        for name in named
    ]
    return " || ', ' || ".join(pieces) if pieces else "''"


def _count(database: duckdb.DuckDBPyConnection) -> dict[str, int]:
    rows = database.execute(
        f"SELECT reason, count(*) FROM verdicts WHERE verdict = '{DROPPED}' GROUP BY reason "
        "ORDER BY reason"
    ).fetchall()
    return {str(reason): int(count) for reason, count in rows}


def _save_parts(workspace: Workspace, reader: pa.RecordBatchReader) -> None:
    """Cut the verdicts, which come ordered by part, into one table a part."""
    schema = pa.schema([field for field in reader.schema if field.name != "part"])
    pending: list[pa.RecordBatch] = []
    current = 0

    def flush(upto: int) -> None:
        nonlocal current, pending
        while current < upto:
            table = pa.Table.from_batches(pending, schema) if pending else schema.empty_table()
            workspace.save_table(f"verdicts/{current:06d}", table)
            pending, current = [], current + 1

    for batch in reader:
        parts = batch.column("part").to_numpy(zero_copy_only=False)
        rest = batch.drop_columns(["part"])
        start = 0
        while start < len(parts):
            end = int((parts == parts[start]).sum()) + start
            flush(int(parts[start]))
            pending.append(rest.slice(start, end - start))
            start = end
    flush(workspace.parts)
