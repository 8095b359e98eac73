"""Keep: named SQL rules over score columns. The first rule that a row breaks is its reason.

Rules are evaluated by DuckDB over columns that were computed once, so a changed threshold costs
seconds. `quantile(column, q)` in a rule is computed first, over all rows that enter the node and
have a value, and its value is written down.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError, GraphError
from gristmill.pipelines.rule_stability import unstable_calls
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import (
    Global,
    Phase,
    Workspace,
    missing_column,
    require_choice,
    setting,
)

KEPT = "kept"
DROPPED = "dropped"
MERGED = "merged"
NO_VALUE = "no value"
FORGOTTEN = "forgotten"
NOT_IN_SUBSET = "not in the subset"
MERGED_REASON = "another caption of the image was chosen"

_QUANTILE = re.compile(r"quantile\(\s*([A-Za-z_]\w*)\s*,\s*([0-9.eE+-]+)\s*\)", re.IGNORECASE)
_WORD = re.compile(r"'(?:[^']|'')*'|[A-Za-z_]\w*")


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
    # other uids are dropped first. See `subset_file`.
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
        for reason, rule in self.rules.items():
            for _, q in _QUANTILE.findall(rule):
                if not 0 <= float(q) <= 1:
                    raise ConfigurationError(
                        f"rule {reason!r}: quantile {q} is not between 0 and 1"
                    )

    def resolve_columns(self, available: pa.Schema) -> tuple[str, ...]:
        """The columns that the rules name; every rule is tried on a table of no rows."""
        used = self.columns_named(available)
        needed = used | ({self.best_by} if self.captions == "best" else set())
        for name in needed - set(available.names):
            raise GraphError(missing_column("Keep", name, available.names))
        names = [name for name in available.names if name in needed]
        with _database() as database:
            empty = pa.schema([available.field(name) for name in names]).empty_table()
            database.register("rows", empty.append_column("uid", pa.array([], pa.string())))
            for reason, rule in self.rules.items():
                for column, _ in _QUANTILE.findall(rule):
                    if column not in available.names:
                        raise GraphError(missing_column("Keep", column, available.names))
                sql = _QUANTILE.sub("0.0::DOUBLE", rule)
                if calls := unstable_calls(database, sql, names):
                    raise GraphError(
                        f"rule {reason!r} ({rule}) asks {', '.join(calls)}, which answers "
                        "otherwise every time: another run would keep other rows; compare with a "
                        "fixed value"
                    )
                try:
                    relation = database.sql(f"SELECT ({sql}) AS broken FROM rows")
                    if str(relation.types[0]) != "BOOLEAN":
                        raise GraphError(
                            f"rule {reason!r} ({rule}) gives {relation.types[0]}, not a truth value"
                        )
                except duckdb.Error as error:
                    there = ", ".join(sorted(available.names))
                    raise GraphError(
                        f"rule {reason!r} ({rule}) is refused: {str(error).strip()}\n"
                        f"columns that enter the node: {there}"
                    ) from error
        return tuple(names)

    def columns_named(self, available: pa.Schema) -> set[str]:
        """The columns among `available` that some rule names."""
        words = {word for rule in self.rules.values() for word in _WORD.findall(rule)}
        return {name for name in available.names if name in words}

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
        with _database(workspace.scratch()) as database:
            own = [name for name in names if name not in needed[:3]]
            clean = ", ".join(_clean(workspace.schema.field(name)) for name in own)
            first = f"CASE {self._first_sql(read)} END AS first_reason"
            select = f"part, uid, image_id, row, {first}{', ' + clean if clean else ''}"
            database.register("gone", gone)
            database.register("chosen", self._chosen())
            database.register("entering", workspace.batches(read))
            database.execute(f"CREATE TEMP TABLE rows AS SELECT {select} FROM entering")
            resolved, quantiles = self._resolve(database)
            database.execute(f"CREATE TEMP TABLE verdicts AS {self._verdict_sql(resolved, names)}")
            self._merge_captions(database)
            counts = _count(database)
            kept = database.execute(
                f"SELECT count(*), count(*) FILTER (verdict = '{KEPT}') FROM verdicts"
            ).fetchall()
            result = database.sql(
                "SELECT part, uid, verdict, reason, value FROM verdicts ORDER BY part, row"
            )
            _save_parts(workspace, result.to_arrow_reader(10_000))
        stats = {
            "rule": list(self.rules),
            "sql": list(self.rules.values()),
            "resolved": [resolved[name] for name in self.rules],
            "dropped": [counts.get(name, 0) for name in self.rules],
        }
        workspace.save_table("rules", pa.table(stats, schema=_RULES))
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
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Rules with the value of each quantile in its place, and those values."""
        values: dict[str, Any] = {}

        def value(match: re.Match[str]) -> str:
            column, q = match.group(1), float(match.group(2))
            name = f"quantile({column}, {q:g})"
            if name not in values:
                row = database.execute(
                    f'SELECT quantile_cont("{column}", {q}) FROM rows WHERE "{column}" IS NOT NULL'
                ).fetchone()
                values[name] = None if row is None or row[0] is None else float(row[0])
            found = values[name]
            return "NULL::DOUBLE" if found is None else f"{found!r}::DOUBLE"

        return {name: _QUANTILE.sub(value, rule) for name, rule in self.rules.items()}, values

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
                by = f"json_extract_string(meta, {_text('$.' + by.removeprefix('meta.'))})"
            clauses += f" WHEN NOT coalesce({by} IN (SELECT uid FROM chosen), FALSE) THEN "
            clauses += _text(NOT_IN_SUBSET)
        return clauses

    def _verdict_sql(self, resolved: Mapping[str, str], names: Sequence[str]) -> str:
        """SELECT that gives each row the first rule it breaks; rules are evaluated once each."""
        flags = "".join(f", ({sql}) AS broken_{i}" for i, sql in enumerate(resolved.values()))
        reason, value = " WHEN first_reason IS NOT NULL THEN first_reason", ""
        value = " WHEN first_reason IS NOT NULL THEN NULL"
        for i, name in enumerate(self.rules):
            if self.missing == "drop":
                reason += f" WHEN broken_{i} IS NULL THEN {_text(NO_VALUE)}"
                value += f" WHEN broken_{i} IS NULL THEN {_text(name)}"
            reason += f" WHEN broken_{i} THEN {_text(name)}"
            value += f" WHEN broken_{i} THEN {_value_sql(self.rules[name], names)}"
        return (
            f"SELECT part, uid, image_id, row, reason, value, {self._best_sql()} AS best, "
            f"CASE WHEN reason IS NULL THEN '{KEPT}' ELSE '{DROPPED}' END AS verdict FROM ("
            f"SELECT *, CASE{reason} END AS reason, CASE{value} END AS value FROM ("
            f"SELECT *{flags} FROM rows))"
        )

    def _best_sql(self) -> str:
        return f'"{self.best_by}"' if self.captions == "best" else "NULL::DOUBLE"

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
            f"UPDATE verdicts SET verdict = '{MERGED}', reason = {_text(MERGED_REASON)}, "
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


def read_subset(path: str) -> list[str]:
    """The uids of a subset file, as 32 hex digits each.

    Raises `ConfigurationError` for a file that is missing or holds something else.
    """
    if not os.path.exists(path):
        raise ConfigurationError(f"{path} does not exist; give a .npy of uids")
    try:
        halves = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ConfigurationError(f"{path} is no .npy of uids: {error}") from error
    if halves.dtype.names is None or [halves.dtype[i] for i in range(2)] != ["<u8", "<u8"]:
        raise ConfigurationError(
            f"{path} holds {halves.dtype}; a subset is an array of two uint64 for each uid, as "
            "DataComp and `gristmill keep --subset-out` write them"
        )
    high, low = (halves[name] for name in halves.dtype.names[:2])
    return [f"{a:016x}{b:016x}" for a, b in zip(high.tolist(), low.tolist(), strict=True)]


def subset_file(uids: Sequence[str]) -> NDArray[Any]:
    """uids of 32 hex digits as DataComp's resharder wants them: sorted pairs of uint64."""
    pairs = [(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids]
    return np.array(sorted(pairs), np.dtype("u8,u8"))


_RULES = pa.schema(
    [
        pa.field("rule", pa.string()),
        pa.field("sql", pa.string()),
        pa.field("resolved", pa.string()),
        pa.field("dropped", pa.int64()),
    ]
)


@contextlib.contextmanager
def _database(scratch: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB in memory, spilling to `scratch`; rules cannot reach files or the network."""
    with duckdb.connect(":memory:") as database:
        database.execute("SET threads = 2")
        database.execute("SET memory_limit = '2GB'")
        if scratch is not None:
            database.execute(f"SET temp_directory = {_text(scratch)}")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        yield database


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _clean(column: pa.Field) -> str:
    """A column with NaN as NULL."""
    name = f'"{column.name}"'
    if pa.types.is_floating(column.type):
        return f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}"
    return name


def _value_sql(rule: str, names: Sequence[str]) -> str:
    """SQL for the text of the columns a rule names, as `column=value`."""
    named = [word for word in dict.fromkeys(_WORD.findall(rule)) if word in names]
    pieces = [f"'{name}=' || coalesce(CAST(\"{name}\" AS VARCHAR), 'null')" for name in named]
    return " || ', ' || ".join(pieces) if pieces else "''"


def _count(database: duckdb.DuckDBPyConnection) -> dict[str, int]:
    rows = database.execute(
        f"SELECT reason, count(*) FROM verdicts WHERE verdict = '{DROPPED}' GROUP BY reason"
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
