"""Rules tried on the table of rows: what each would drop, at once, and without touching the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from gristmill.dags.explorer.row_table import DECIDED, SAMPLES, SHOWN, RowTable, in_its_place
from gristmill.errors import GraphError
from gristmill.pipelines.database import sql_name, sql_text
from gristmill.pipelines.keep import FORGOTTEN, NOT_IN_SUBSET
from gristmill.pipelines.rules import (
    looks_beyond_its_row,
    quantile_name,
    quantiles_in,
    with_quantiles,
)
from gristmill.pipelines.stage import missing_column
from gristmill.pipelines.verdicts import KEPT, MERGED_REASON, NO_VALUE, quantile, verdict_sql


@dataclass(frozen=True)
class RuleCount:
    """What one rule does: rows that it drops, those that it means (an earlier rule may take them),
    and the rule with the values of its quantiles."""

    name: str
    sql: str
    resolved: str
    drops: int
    means: int


@dataclass(frozen=True)
class LiveCounts:
    """What rules would keep, of the rows that enter the Keep node; `shown`: of how many rows in
    all that is known."""

    shown: int
    rows: int
    kept: int
    # Rows whose fate is another than in the run.
    changes: int
    rules: tuple[RuleCount, ...]
    # Reason -> rows, of those that are no rule.
    others: Mapping[str, int]


class LiveRules:
    """The rules that the page shows, and the view of the rows that they make."""

    def __init__(self, table: RowTable) -> None:
        self.table = table
        self.rules: dict[str, str] = dict(table.stage.rules)
        self.missing = table.stage.missing

    def apply(self, rules: Mapping[str, str], missing: str = "") -> LiveCounts:
        """Make the view of these rules. Raises `GraphError` or `ConfigurationError` for a rule
        that cannot work; the view then stays."""
        missing = missing or self.missing
        rules = {name: sql for name, sql in rules.items() if sql.strip()}
        names = self._columns(rules, missing)
        with self.table.writing:
            cursor = self.table.cursor()
            try:
                counts = self._decide(cursor, rules, names, drop=missing == "drop")
            except duckdb.Error as error:
                raise GraphError(f"the rules cannot be tried: {error}") from error
            finally:
                cursor.close()
            self.rules, self.missing = rules, missing
        return counts

    def _columns(self, rules: Mapping[str, str], missing: str) -> list[str]:
        """The columns that rules name. Raises `GraphError` for one that the table does not have."""
        stage = dataclasses.replace(self.table.stage, rules=rules, missing=missing, subset="")
        stage.check()
        if len(self.table.ends) > 1 and any(map(looks_beyond_its_row, rules.values())):
            raise GraphError(
                "a rule that looks at other rows sees another set of them for each list that was "
                "added to the run: gristmill keep tells what it does"
            )
        with in_its_place(self.table.layout):
            entering = self.table.layout.dag.columns(self.table.node)
        names = stage.resolve_columns(entering)
        self.table.add_columns(names)
        there = {*self.table.scores, "uid", "row", "url", "path", "caption"}
        for name in names:
            if name not in there:
                raise GraphError(missing_column("the explorer", name, sorted(there)))
        return list(names)

    def _decide(
        self,
        cursor: duckdb.DuckDBPyConnection,
        rules: Mapping[str, str],
        names: list[str],
        *,
        drop: bool,
    ) -> LiveCounts:
        resolved = self._resolved(cursor, rules, names)
        # Of those that came so far, as a Keep node sees them; the others keep their fate.
        self._view(cursor, names)
        sql = verdict_sql(rules, resolved, names, drop=drop)
        flags = "".join(f", broken_{i}" for i in range(len(rules)))
        cursor.execute(
            f"CREATE OR REPLACE TABLE {DECIDED} AS SELECT id, TRUE AS entered, "
            f"coalesce(reason, '{KEPT}') AS now{flags} FROM ({sql}) UNION ALL BY NAME "
            f"SELECT rowid AS id, FALSE AS entered, coalesce(reason, verdict) AS now "
            f"FROM {SAMPLES} WHERE NOT entered ORDER BY id"
        )
        if self.table.stage.captions != "all":
            self._merge(cursor)
        self.table.show(cursor)
        return self._counts(cursor, rules, resolved)

    def _view(
        self, cursor: duckdb.DuckDBPyConnection, names: Sequence[str], end: int | None = None
    ) -> None:
        """The rows that enter the Keep node as the table `rows`, which rules are asked over; of
        the parts up to `end`."""
        chosen = "".join(f", {sql_name(name)}" for name in names)
        first = "" if end is None else f" AND part < {end}"
        cursor.execute(
            f"CREATE OR REPLACE TEMP VIEW rows AS SELECT rowid AS id, CASE "
            f"WHEN forgotten THEN {sql_text(FORGOTTEN)} "
            f"WHEN reason = {sql_text(NOT_IN_SUBSET)} THEN reason END AS first_reason{chosen} "
            f"FROM {SAMPLES} WHERE entered{first}"
        )

    def _resolved(
        self, cursor: duckdb.DuckDBPyConnection, rules: Mapping[str, str], names: Sequence[str]
    ) -> dict[str, str]:
        """Rules with the value of each quantile in its place: that of the first list, whose
        verdicts stand when another is added."""
        self._view(cursor, names, self.table.ends[0])
        values = {
            quantile_name(column, q): quantile(cursor, column, q)
            for column, q in quantiles_in(rules).values()
        }

        def value(column: str, q: float) -> str:
            found = values[quantile_name(column, q)]
            return "NULL::DOUBLE" if found is None else f"{found!r}::DOUBLE"

        return {name: with_quantiles(rule, value) for name, rule in rules.items()}

    def _merge(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Of the kept captions of an image one stays, as in `Keep`."""
        stage = self.table.stage
        # One that was kept before its image came again stays the one.
        lists = " ".join(f"WHEN part < {end} THEN {i}" for i, end in enumerate(self.table.ends))
        best = sql_name(stage.best_by) if stage.captions == "best" else "NULL::DOUBLE"
        cursor.execute(
            f"UPDATE {DECIDED} SET now = {sql_text(MERGED_REASON)} FROM ("
            f"SELECT {DECIDED}.id AS other FROM {DECIDED} JOIN {SAMPLES} ON {SAMPLES}.rowid = id "
            f"WHERE now = '{KEPT}' AND {DECIDED}.entered QUALIFY row_number() OVER ("
            f"PARTITION BY image_id ORDER BY CASE {lists} END, {best} DESC NULLS LAST, row, uid"
            ") > 1"
            ") WHERE id = other"
        )

    def _counts(
        self,
        cursor: duckdb.DuckDBPyConnection,
        rules: Mapping[str, str],
        resolved: Mapping[str, str],
    ) -> LiveCounts:
        found = dict(
            cursor.execute(
                f"SELECT now, count(*) FROM {DECIDED} WHERE entered GROUP BY now"
            ).fetchall()
        )
        sums = ", ".join(
            ["count(*)", *(f"count(*) FILTER (broken_{i})" for i in range(len(rules)))]
        )
        rows, *means = cursor.execute(f"SELECT {sums} FROM {DECIDED} WHERE entered").fetchall()[0]
        shown = cursor.execute(f"SELECT count(*) FROM {DECIDED}").fetchall()[0][0]
        changes = cursor.execute(f"SELECT count(*) FROM {SHOWN} WHERE changes").fetchall()[0][0]
        known = (
            RuleCount(name, sql, resolved[name], found.get(name, 0), meant)
            for (name, sql), meant in zip(rules.items(), means, strict=True)
        )
        return LiveCounts(
            shown,
            rows,
            found.get(KEPT, 0),
            changes,
            tuple(known),
            {
                name: found[name]
                for name in sorted(found)
                if name != KEPT and (name not in rules or name == NO_VALUE)
            },
        )
