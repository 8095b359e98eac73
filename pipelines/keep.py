"""Keep: named SQL rules over score columns. The first rule that a row breaks is its reason.

Rules are evaluated by DuckDB over columns that were computed once, so a changed threshold costs
seconds. `quantile(column, q)` in a rule is computed first, over all rows that enter the node and
have a value, and its value is written down.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError, GraphError
from gristmill.pipelines.database import open_database, read_stream, sql_name, sql_text
from gristmill.pipelines.rule_counts import COUNTS, RULES, add_counts, add_rules
from gristmill.pipelines.rules import (
    check_quantiles,
    columns_in,
    looks_beyond_its_row,
    quantile_name,
    quantiles_in,
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
from gristmill.pipelines.verdicts import (
    KEPT,
    Outcomes,
    clean_sql,
    outcomes,
    pack_texts,
    quantile,
    tables_of_parts,
    unpack_texts,
    verdict_sql,
    with_merged,
    with_places,
)

FORGOTTEN = "forgotten"
NOT_IN_SUBSET = "not in the subset"
# Parts that one task decides over; a task of them is seconds.
PARTS_A_TASK = 32
# Parts whose kept captions are compared in one task: some tens of millions of rows.
PARTS_A_BUCKET = 2000
MEMORY = "2GB"


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
        """Quantiles over all rows, the rules over some parts a task, one caption of each image, and
        what each rule did."""
        return (
            Phase(name="quantiles", count=lambda _: 1, work=self._quantiles),
            Phase(name="rules", count=self._tasks, work=self._decide),
            Phase(name="captions", count=self._buckets, work=self._choose_captions),
            Phase(name="counts", count=lambda _: 1, work=self._count),
        )

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """Verdicts of a part's rows, in their order."""
        table = workspace.load_table(f"decided/{part // PARTS_A_TASK:06d}")
        found = table.filter(pc.equal(table["part"], part)).drop_columns(["part"])
        for bucket in range(self._buckets(workspace)):
            merged = workspace.load_part(f"merged/{bucket:06d}", part)
            found = with_merged(found, merged["place"], unpack_texts(merged))
        return found

    # -- phases ---------------------------------------------------------------------------------

    def _tasks(self, workspace: Workspace) -> int:
        """Tasks of some parts each; a rule that looks at other rows than its own needs all."""
        if self._is_wide():
            return 1
        return math.ceil(workspace.parts / PARTS_A_TASK) - workspace.first_part // PARTS_A_TASK

    def _parts_of(self, workspace: Workspace, task: int) -> range:
        """The parts that a task decides over."""
        first, end = workspace.first_part, workspace.parts
        if self._is_wide():
            return range(first, end)
        group = first // PARTS_A_TASK + task
        return range(max(first, group * PARTS_A_TASK), min((group + 1) * PARTS_A_TASK, end))

    def _is_wide(self) -> bool:
        """Whether some rule looks at other rows than its own."""
        return any(looks_beyond_its_row(rule) for rule in self.rules.values())

    def _buckets(self, workspace: Workspace) -> int:
        """Buckets of images, each of which holds all captions of its images."""
        if self.captions == "all":
            return 0
        return math.ceil(workspace.parts / PARTS_A_BUCKET)

    def _quantiles(self, workspace: Workspace, _: int) -> None:
        """The value of each quantile, over all rows that enter and have one; of a list that was
        added they are those of the first, whose verdicts stand."""
        if workspace.before is not None:
            workspace.save_table("quantiles", workspace.before.load_table("quantiles"))
            return
        asked = quantiles_in(self.rules)
        names = list(dict.fromkeys(column for column, _ in asked.values()))
        values: list[float | None] = []
        if names:
            with open_database(workspace.scratch(), memory=MEMORY, is_locked=True) as database:
                clean = ", ".join(clean_sql(workspace.schema.field(name)) for name in names)
                made = f"CREATE TEMP TABLE rows AS SELECT {clean} FROM entering"
                read_stream(database, "entering", workspace.batches(names), made)
                values = [quantile(database, column, q) for column, q in asked.values()]
        table = pa.table({"quantile": list(asked), "value": values}, schema=_QUANTILES)
        workspace.save_table("quantiles", table)

    def _resolved(self, workspace: Workspace) -> dict[str, str]:
        """Rules with the value of each quantile in its place."""
        table = workspace.load_table("quantiles")
        values = dict(zip(table["quantile"].to_pylist(), table["value"].to_pylist(), strict=True))

        def value(column: str, q: float) -> str:
            found = values[quantile_name(column, q)]
            return "NULL::DOUBLE" if found is None else f"{found!r}::DOUBLE"

        return {name: with_quantiles(rule, value) for name, rule in self.rules.items()}

    def _decide(self, workspace: Workspace, task: int) -> None:
        """Verdicts of the rows of some parts, as if all captions of an image could stay."""
        parts = self._parts_of(workspace, task)
        # What was decided before stands, but a rule may look at it.
        seen = range(workspace.parts) if self._is_wide() else parts
        names = self.resolve_columns(workspace.schema)
        gone = workspace.forgotten()
        needed = ["uid", "image_id", "row"]
        needed += ["sha256"] if "sha256" in gone["kind"].to_pylist() else []
        needed += ["meta"] if self.subset and self.subset_by != "uid" else []
        read = [n for n in dict.fromkeys((*needed, *names)) if n in workspace.schema.names]
        buckets = self._buckets(workspace)
        with open_database(workspace.scratch(), memory=MEMORY, is_locked=True) as database:
            own = [name for name in names if name not in needed[:3]]
            clean = ", ".join(clean_sql(workspace.schema.field(name)) for name in own)
            first = f"CASE {self._first_sql(read)} END AS first_reason"
            select = f"part, place, uid, image_id, row, {first}{', ' + clean if clean else ''}"
            database.register("gone", gone)
            database.register("chosen", self._chosen())
            made = f"CREATE TEMP TABLE rows AS SELECT {select} FROM entering"
            read_stream(database, "entering", with_places(workspace.batches(read, seen)), made)
            best = sql_name(self.best_by) if self.captions == "best" else "NULL::DOUBLE"
            resolved = self._resolved(workspace)
            sql = verdict_sql(self.rules, resolved, names, drop=self.missing == "drop")
            database.execute(
                f"CREATE TEMP TABLE verdicts AS SELECT *, {best} AS best FROM ({sql}) "
                f"WHERE part >= {parts.start}"
            )
            result = database.sql(
                "SELECT part, uid, verdict, reason, value FROM verdicts ORDER BY part, place"
            )
            decided: list[pa.Table] = []
            for part, table in tables_of_parts(result.to_arrow_reader(10_000), parts):
                number = pa.array(np.full(len(table), part, np.int32))
                decided.append(table.append_column("part", number))
                # Of as many parts as are looked at together later.
                if part == parts[-1] or (part + 1) % PARTS_A_TASK == 0:
                    name = f"decided/{part // PARTS_A_TASK:06d}"
                    workspace.save_table(name, pa.concat_tables(decided))
                    decided.clear()
            for bucket in range(buckets):
                # By what its image is, so that all its captions meet.
                kept = database.sql(
                    f"SELECT part, place, uid, image_id, row, best FROM verdicts WHERE verdict = "
                    f"'{KEPT}' AND hash(image_id) % {buckets} = {bucket} ORDER BY part, place"
                )
                name = f"candidates/{bucket:06d}-{task:06d}"
                workspace.save_table(name, kept.to_arrow_table())
            workspace.save_table(f"outcomes/{task:06d}", outcomes(database, len(self.rules)))

    def _choose_captions(self, workspace: Workspace, bucket: int) -> None:
        """Among the kept captions of one image, keep one; the others are merged into it. One that
        was kept before its image came again stays the one."""
        with open_database(workspace.scratch(), memory=MEMORY, is_locked=True) as database:
            made = "CREATE TEMP TABLE kept AS SELECT * FROM candidates"
            read_stream(database, "candidates", self._candidates(workspace, bucket), made)
            made = (
                "CREATE TEMP TABLE standing AS SELECT * FROM earlier "
                f"WHERE hash(image_id) % {self._buckets(workspace)} = {bucket}"
            )
            read_stream(database, "earlier", self._standing(workspace), made)
            result = database.sql(
                "SELECT part, place, coalesce(standing.uid, first) AS chosen FROM ("
                "SELECT part, place, uid, image_id, first_value(uid) OVER w AS first FROM kept "
                "WINDOW w AS (PARTITION BY image_id ORDER BY best DESC NULLS LAST, row, uid)"
                ") AS ours LEFT JOIN standing ON ours.image_id = standing.image_id "
                "WHERE coalesce(standing.uid, first) <> ours.uid ORDER BY part, place"
            )
            merged = 0

            def each() -> Iterator[dict[str, NDArray[np.generic]]]:
                nonlocal merged
                reader = result.to_arrow_reader(10_000)
                for _, table in tables_of_parts(reader, range(workspace.parts)):
                    merged += len(table)
                    yield {"place": table["place"].to_numpy(), **pack_texts(table["chosen"])}

            workspace.save_parts(f"merged/{bucket:06d}", each())
        workspace.save(f"merged/{bucket:06d}-rows", np.array([merged], np.int64))

    def _candidates(self, workspace: Workspace, bucket: int) -> pa.RecordBatchReader:
        """Kept rows of a bucket of images, of all tasks."""
        tasks = self._tasks(workspace)
        names = [f"candidates/{bucket:06d}-{task:06d}" for task in range(tasks)]
        first = workspace.load_table(names[0])
        rest = map(workspace.load_table, names[1:])
        batches = (b for table in itertools.chain([first], rest) for b in table.to_batches())
        return pa.RecordBatchReader.from_batches(first.schema, batches)

    def _standing(self, workspace: Workspace) -> pa.RecordBatchReader:
        """Images of the lists before the last, each with the uid of the caption that was kept."""
        schema = pa.schema([pa.field("image_id", pa.string()), pa.field("uid", pa.string())])

        def read() -> Iterator[pa.RecordBatch]:
            one = workspace.before
            while one is not None:
                for part in range(one.first_part, one.parts):
                    verdicts = self.columns(one, part)
                    kept = verdicts["uid"].filter(pc.equal(verdicts["verdict"], KEPT))
                    rows = one.rows(part, schema.names)
                    yield from rows.filter(pc.is_in(rows["uid"], kept)).cast(schema).to_batches()
                one = one.before

        return pa.RecordBatchReader.from_batches(schema, read())

    def _count(self, workspace: Workspace, _: int) -> None:
        """What each rule did, over all tasks, and over all lists."""
        tables = [
            workspace.load_table(f"outcomes/{task:06d}") for task in range(self._tasks(workspace))
        ]
        done = Outcomes.of(tables)
        merged = sum(
            int(workspace.load(f"merged/{bucket:06d}-rows")[0])
            for bucket in range(self._buckets(workspace))
        )
        columns = {
            "rule": list(self.rules),
            "sql": list(self.rules.values()),
            "resolved": list(self._resolved(workspace).values()),
            "dropped": [done.dropped.get(name, 0) for name in self.rules],
            "broken": [done.broken.get(i, 0) for i in range(len(self.rules))],
            "taken_by": [done.taken_by(i, name) for i, name in enumerate(self.rules)],
            "no_value": [done.no_value.get(i, 0) for i in range(len(self.rules))],
        }
        rules = pa.table(columns, schema=RULES)
        others = [name for name in sorted(done.dropped) if name not in self.rules]
        facts = {
            "rows": [done.rows], "kept": [done.kept - merged],
            # Reasons that are no rule: forgotten, no value, not in the subset.
            "others": [others], "others_dropped": [[done.dropped[name] for name in others]],
        }  # fmt: skip
        counts = pa.table(facts, schema=COUNTS)
        if workspace.before is not None:
            rules = add_rules(workspace.before.load_table("rules"), rules)
            counts = add_counts(workspace.before.load_table("counts"), counts)
        workspace.save_table("rules", rules)
        workspace.save_table("counts", counts)

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


@dataclass(frozen=True, kw_only=True)
class Prefilter(Keep):
    """A Keep of rows of the source, so that what the source says is enough to drop is not fetched:
    rules over its columns, or a subset. Without either there is none."""

    def is_disabled(self) -> bool:
        """Without rules and subset, and where all captions stay, there is nothing to decide."""
        return not self.rules and not self.subset and self.captions == "all"


_QUANTILES = pa.schema([pa.field("quantile", pa.string()), pa.field("value", pa.float64())])
