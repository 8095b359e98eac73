"""What a corpus is made of: counts over the columns that enter a run's first Keep node."""

from __future__ import annotations

from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from gristmill.dags.engine.rows import RowReader
from gristmill.dags.graph import Dag
from gristmill.pipelines.keep import Keep

# One-row queries by title: the columns they need, and (label, SQL of a count) pairs.
_COUNTS = {
    "Captions": (
        ("caption_copies", "caption_group_rank"),
        (
            ("said of more than one picture, word for word", "caption_copies > 1"),
            ("said of more than ten", "caption_copies > 10"),
            ("near copies of another caption", "caption_group_rank > 0 AND caption_copy_rank = 0"),
        ),
    ),
    "Clean-up of captions": (
        ("caption_original", "caption_masked"),
        (
            ("mended or masked; the original is kept", "caption_original IS NOT NULL"),
            ("with something private masked", "caption_masked > 0"),
        ),
    ),
    "Copies of pictures": (
        ("duplicate_of",),
        (
            ("equal bytes", "duplicate_kind = 'bytes'"),
            ("equal pixels", "duplicate_kind = 'pixels'"),
            ("near, by hash and thumbnail", "duplicate_kind = 'near'"),
        ),
    ),
    "Copies by local features": (
        ("copy_of",),
        (
            ("copies", "copy_of IS NOT NULL"),
            ("of these, not found by hashes", "copy_of IS NOT NULL AND duplicate_of IS NULL"),
            ("mirror images", "copy_mirrored"),
            ("hash copies that local features do not confirm", "duplicate_points < 7"),
        ),
    ),
    "Meaning": (
        ("semantic_similarity", "semantic_cluster"),
        (
            ("within 0.99 of a better picture", "semantic_similarity > 0.99"),
            ("within 0.95", "semantic_similarity > 0.95"),
            ("within 0.90", "semantic_similarity > 0.90"),
        ),
    ),
    "Evaluations": (
        ("contaminated_by",),
        (
            ("pictures of an evaluation", "contamination IN ('bytes', 'pixels', 'near')"),
            ("captions of an evaluation", "contamination = 'caption'"),
        ),
    ),
}


@dataclass(frozen=True)
class CorpusTable:
    """Counts of one kind: (what, rows, rows of these that were kept)."""

    title: str
    rows: list[tuple[str, int, int]] = field(default_factory=list)
    note: str = ""


def gather_corpus(dag: Dag, reader: RowReader, parts: int) -> list[CorpusTable]:
    """Tables of what is known; none of a run without a Keep node."""
    keeps = [name for name in dag.order() if isinstance(dag.stage(name), Keep)]
    if not keeps:
        return []
    available = dag.columns(keeps[0])
    wanted = {
        name
        for needed, counts in _COUNTS.values()
        for name in available.names
        if set(needed) <= set(available.names)
        and (name in needed or any(name in sql for _, sql in counts))
    }
    wanted |= {"caption_language"} & set(available.names)
    if not wanted:
        return []
    names = sorted(wanted)
    with duckdb.connect(":memory:") as database:
        database.execute("SET memory_limit = '1GB'")
        database.register("rows_read", _read(keeps, reader, parts, names, available))
        database.execute("CREATE TEMP TABLE rows AS SELECT * FROM rows_read")
        tables = [
            _counted(database, title, counts)
            for title, (needed, counts) in _COUNTS.items()
            if set(needed) <= wanted
        ]
        if "caption_language" in wanted:
            tables.insert(0, _languages(database))
        if "semantic_cluster" in wanted:
            tables = [_with_clusters(database, table) for table in tables]
    return [table for table in tables if table.rows]


def _read(
    keeps: list[str], reader: RowReader, parts: int, names: list[str], available: pa.Schema
) -> pa.RecordBatchReader:
    """The columns of all rows that entered the first Keep, and whether the last kept them."""
    schema = pa.schema([*(available.field(name) for name in names), ("kept", pa.bool_())])

    def batches() -> object:
        for part in range(parts):
            table = reader.entering(keeps[0], part, ["uid", *names])
            left = set(reader.leaving(keeps[-1], part, ["uid"])["uid"].to_pylist())
            kept = pa.array([uid in left for uid in table["uid"].to_pylist()], pa.bool_())
            table = table.drop_columns(["uid"]).append_column("kept", kept)
            yield from table.cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def _counted(
    database: duckdb.DuckDBPyConnection, title: str, counts: tuple[tuple[str, str], ...]
) -> CorpusTable:
    rows = []
    columns = {row[0] for row in database.execute("DESCRIBE rows").fetchall()}
    for label, sql in counts:
        words = {word for word in _identifiers(sql) if "_" in word}
        if words <= columns:
            found = database.execute(
                f"SELECT count(*), count(*) FILTER (kept) FROM rows WHERE {sql}"
            ).fetchall()[0]
            rows.append((label, int(found[0]), int(found[1])))
    return CorpusTable(title, rows)


def _identifiers(sql: str) -> list[str]:
    cleaned = "".join(c if c.isalnum() or c == "_" else " " for c in sql)
    return [word for word in cleaned.split() if word.islower()]


def _languages(database: duckdb.DuckDBPyConnection) -> CorpusTable:
    found = database.execute(
        "SELECT coalesce(caption_language, 'none'), count(*) AS n, count(*) FILTER (kept) "
        "FROM rows GROUP BY 1 ORDER BY n DESC, 1"
    ).fetchall()
    rows = [(str(name), int(count), int(kept)) for name, count, kept in found[:8]]
    rest = len(found) - len(rows)
    return CorpusTable("Languages of captions", rows, f"and {rest} more" if rest > 0 else "")


def _with_clusters(database: duckdb.DuckDBPyConnection, table: CorpusTable) -> CorpusTable:
    if table.title != "Meaning":
        return table
    count, largest = database.execute(
        "SELECT count(*), max(n) FROM (SELECT count(*) AS n FROM rows GROUP BY semantic_cluster)"
    ).fetchall()[0]
    clusters = "one cluster" if count == 1 else f"{count:,} clusters"
    note = f"{clusters}; the largest has {largest:,} rows"
    return CorpusTable(table.title, table.rows, note)
