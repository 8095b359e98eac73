"""All rows of a run as one table of a database in memory: what the page asks its questions of."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gristmill.dags.engine.cut_record import parts_done
from gristmill.dags.engine.ledger import ledger_schema
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import ROWS, RunLayout
from gristmill.dags.engine.tombstones import read_tombstones
from gristmill.dags.runs.plan import finished_parts, open_run, where_it_ran
from gristmill.errors import GraphError
from gristmill.pipelines.database import sql_name, sql_text
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.verdicts import KEPT, clean_sql

SHOWN = "shown"
"""The view that the page draws: `samples`, and beside each row `now`, what some rules make of it
(`kept`, or the reason that drops it), `fate` (kept or dropped), and `changes`, whether that is
another fate than in the run."""
DECIDED = "decided"
"""The table of what some rules make of each row of `samples`, in their order."""
SAMPLES = "samples"
"""The table: one line a line of the ledger, in its order. `entered`: whether the row came as far as
the last Keep node."""
# Of the ledger; its scores are taken from where the Keep node reads them.
_LEDGER = ("uid", "row", "url", "path", "verdict", "node", "reason", "value")
# Whose row it is, and what is in it, is no score.
_NO_SCORES = {
    *_LEDGER, "caption", "parent_uid", "meta", "error", "sha256", "source_uid", "status", "pointer",
    "blob_offset", "blob_size", "stored_sha256",
}  # fmt: skip
# Texts of more values than this, and than this share of the rows of the first part, are no kinds
# of anything: hashes, names, captions.
_MOST_VALUES, _MOST_SHARE = 200, 0.02
_HOST = "^[a-z][a-z0-9+.-]*://(?:[^/@?#]*@)?([a-z0-9._-]+)"


# A process has one working directory.
_PLACE = threading.RLock()


@contextlib.contextmanager
def in_its_place(layout: RunLayout) -> Iterator[None]:
    """`where_it_ran`, for one thread at a time."""
    with _PLACE, where_it_ran(layout):
        yield


@dataclass(frozen=True)
class Loading:
    """How far the table is: parts, those that are there, and their rows."""

    parts: int = 0
    done: int = 0
    rows: int = 0


@dataclass
class RowTable:
    """The rows of a finished run.

    Columns: of the ledger `uid`, `row`, `url`, `path`, `caption`, `verdict`, `node`, `reason` and
    `value`; `host`, of the URL; `part`; `entered`; `forgotten`; and each score that enters the last
    Keep node, null for rows that did not come so far, and where it is NaN.
    """

    layout: RunLayout
    database: duckdb.DuckDBPyConnection
    # The last Keep node.
    node: str
    # Name -> type of those that are in the table, and of those that are read when they are asked
    # for: texts that hardly repeat, such as hashes, would be most of its memory.
    scores: dict[str, pa.DataType]
    aside: dict[str, pa.DataType]
    # Parts of the run up to the end of each of its lists.
    ends: tuple[int, ...]
    # Kind -> values of tombstones, which hold whether or not the ledger says so already.
    stones: dict[str, pa.Array]
    state: Loading = field(default_factory=Loading)
    # One writer at a time; who reads has a cursor of its own.
    writing: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, out: str, *, threads: int = 2, memory: str = "1GB") -> RowTable:
        """The table of a run, as yet without rows. Raises `RunError` for one that is not finished,
        `GraphError` for one without a Keep node."""
        layout = open_run(out)
        parts = finished_parts(layout)
        keeps = [n for n in layout.dag.order() if isinstance(layout.dag.stage(n), Keep)]
        if not keeps:
            raise GraphError(f"{layout.dag.name} has no Keep node; there is nothing to choose by")
        with in_its_place(layout):
            entering = layout.dag.columns(keeps[-1])
        scores = {
            column.name: column.type
            for column in entering
            if column.name not in _NO_SCORES and _is_score(column.type)
        }
        database = duckdb.connect(":memory:", config={"threads": threads, "memory_limit": memory})
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        ends = tuple(parts_done(one) or 0 for one in layout.lists)
        found = cls(layout, database, keeps[-1], scores, {}, ends, _stones(layout), Loading(parts))
        named = found._named()
        for name in found._rarely_repeated() - named:
            found.aside[name] = scores.pop(name)
        fates = ledger_schema(layout.dag)
        columns = [
            *(fates.field(name) for name in found._ledger_names()),
            *(entering.field(name) for name in scores),
            pa.field("caption", pa.string()),
            pa.field("host", pa.string()),
            pa.field("part", pa.int32()),
            pa.field("entered", pa.bool_()),
            pa.field("forgotten", pa.bool_()),
        ]
        database.register("empty", pa.schema(columns).empty_table())
        database.execute(f"CREATE TABLE {SAMPLES} AS SELECT * FROM empty")
        database.unregister("empty")
        return found

    @property
    def stage(self) -> Keep:
        """The last Keep of the run."""
        stage = self.layout.dag.stage(self.node)
        assert isinstance(stage, Keep)
        return stage

    @property
    def is_whole(self) -> bool:
        """Whether all rows are there."""
        return self.state.done == self.state.parts

    def load(self, parts: int = 0) -> None:
        """Fill the table, so many parts of it or all, one at a time; `state` says how far it is."""
        end = min(self.state.done + parts, self.state.parts) if parts else self.state.parts
        for part in range(self.state.done, end):
            with self.writing:
                rows = self._add(part)
            self.state = Loading(self.state.parts, part + 1, self.state.rows + rows)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of one thread's own to the same tables."""
        return self.database.cursor()

    def add_columns(self, names: Collection[str]) -> None:
        """Read columns that lie aside into the table, of all rows."""
        names = [name for name in names if name in self.aside]
        if not names:
            return
        with self.writing:
            cursor = self.cursor()
            own = ", ".join(map(sql_name, names))
            for part in range(self.state.done):
                reader = RowReader(self.layout, many=True)
                with in_its_place(self.layout):
                    extra = reader.entering(self.node, part, ["uid", *names])
                cursor.register("extra", extra.append_column("part", _numbers(part, len(extra))))
                made = "INSERT INTO more" if part else "CREATE OR REPLACE TEMP TABLE more AS"
                cursor.execute(f"{made} SELECT uid, part, {own} FROM extra")
                cursor.unregister("extra")
            # Who looks meanwhile sees the table as it was.
            cursor.begin()
            cursor.execute(
                f"CREATE OR REPLACE TABLE wider AS SELECT {SAMPLES}.*, "
                + ", ".join(f"more.{sql_name(name)}" for name in names)
                + f" FROM {SAMPLES} LEFT JOIN more ON {SAMPLES}.entered AND more.part = "
                f"{SAMPLES}.part AND more.uid = {SAMPLES}.uid ORDER BY {SAMPLES}.rowid"
            )
            cursor.execute(f"DROP VIEW IF EXISTS {SHOWN}")
            cursor.execute(f"DROP TABLE {SAMPLES}")
            cursor.execute(f"ALTER TABLE wider RENAME TO {SAMPLES}")
            if cursor.execute(f"FROM duckdb_tables() WHERE table_name = '{DECIDED}'").fetchall():
                self.show(cursor)
            cursor.commit()
            cursor.close()
            for name in names:
                self.scores[name] = self.aside.pop(name)

    def show(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Make the view that the page draws, of what was decided of the rows."""
        cursor.execute(
            f"CREATE OR REPLACE VIEW {SHOWN} AS SELECT {SAMPLES}.*, {DECIDED}.now, "
            f"{DECIDED}.now <> coalesce({SAMPLES}.reason, {SAMPLES}.verdict) AS changes, "
            f"CASE WHEN {DECIDED}.now = '{KEPT}' THEN 'kept' ELSE 'dropped' END AS fate "
            # While the table is filled, rows come that no rule was asked about yet.
            f"FROM {SAMPLES} POSITIONAL JOIN {DECIDED} WHERE {DECIDED}.id IS NOT NULL"
        )

    def _named(self) -> set[str]:
        """What the run's own rules, and the choice of captions, look at."""
        stage = self.stage
        with in_its_place(self.layout):
            named = set(stage.columns_named(self.layout.dag.columns(self.node)))
        return named | ({"image_id", stage.best_by} if stage.captions != "all" else set())

    def _rarely_repeated(self) -> set[str]:
        """Texts that are no kinds of anything, by the rows of the first part."""
        names = [name for name, kind in self.scores.items() if pa.types.is_string(kind)]
        if not names or not self.state.parts:
            return set()
        with in_its_place(self.layout):
            table = RowReader(self.layout).entering(self.node, 0, names)
        most = max(_MOST_VALUES, int(_MOST_SHARE * len(table)))
        return {name for name in names if pc.count_distinct(table[name]).as_py() > most}

    def _ledger_names(self) -> list[str]:
        there = ledger_schema(self.layout.dag).names
        return [name for name in _LEDGER if name in there]

    def _add(self, part: int) -> int:
        names = self._ledger_names()
        ledger = self.layout.folder.read_table(f"ledger/{part:06d}.parquet", names)
        # Of this part alone: a reader keeps the records of all that it has read.
        reader = RowReader(self.layout, many=True)
        with in_its_place(self.layout):
            there = self.layout.dag.columns(self.node).names
            captions = ["caption"] if "caption" in there else []
            entering = reader.entering(self.node, part, ["uid", *captions, *self.scores])
            kinds = [kind for kind in self.stones if kind in there]
            named = reader.entering(self.node, part, kinds or ["uid"])
            listed = reader.table(self.layout.dag.source, part, ROWS, ["uid", "caption"])
        entering = entering.rename_columns(
            ["entering_uid", *(["entering_caption"] if captions else []), *self.scores]
        )
        gone = np.zeros(len(entering), bool)
        for kind in kinds:
            gone |= pc.is_in(named[kind], self.stones[kind]).to_numpy()
        entering = entering.append_column("gone", pa.array(gone))
        if not captions:
            nothing = pa.nulls(len(entering), pa.string())
            entering = entering.append_column("entering_caption", nothing)
        clean = [clean_sql(pa.field(name, kind)) for name, kind in self.scores.items()]
        chosen = [
            *(f"ledger.{sql_name(name)}" for name in names),
            *clean,
            # Of what ended above, as the list has it.
            "coalesce(entering_caption, listed_caption) AS caption",
            f"regexp_extract(lower(url), '{_HOST}', 1) AS host",
            f"{part}::INTEGER AS part",
            "entering_uid IS NOT NULL AS entered",
            "coalesce(gone, FALSE) AS forgotten",
        ]
        # A row that came twice has two lines with one uid, and one of them ended above.
        above = ", ".join(map(sql_text, sorted(self.layout.dag.upstream(self.node))))
        cursor = self.cursor()
        cursor.register("ledger", ledger)
        cursor.register("entering", entering)
        cursor.register("listed", listed.rename_columns(["listed_uid", "listed_caption"]))
        # In the ledger's order, which no join keeps by itself.
        cursor.execute(
            f"INSERT INTO {SAMPLES} BY NAME SELECT {', '.join(chosen)} FROM "
            "(SELECT *, row_number() OVER () AS place FROM ledger) AS ledger "
            f"LEFT JOIN entering ON entering_uid = uid AND coalesce(node NOT IN ({above}), TRUE) "
            "LEFT JOIN listed ON listed_uid = uid ORDER BY place"
        )
        cursor.close()
        return len(ledger)


def _stones(layout: RunLayout) -> dict[str, pa.Array]:
    """Kind -> values of what is forgotten; none of a run of which nothing is."""
    table = read_tombstones(layout.folder)
    return {
        kind: table.filter(pc.equal(table["kind"], kind))["value"].combine_chunks()
        for kind in pc.unique(table["kind"]).to_pylist()
    }


def _numbers(number: int, count: int) -> pa.Array:
    """The same number so many times."""
    return pa.array(np.full(count, number, np.int32))


def _is_score(kind: pa.DataType) -> bool:
    """Whether values of this type can be drawn or counted."""
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
    )
