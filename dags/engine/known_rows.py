"""The rows of the lists before the last, which those of the last are compared with by their names.

A row without a URL is named by where it lies below its source: `0001.jpg` of a folder, the key of a
sample in a tar. Another list may have another picture of that name. So a row of a list by another
path, that lies elsewhere than the row of its name, gets a name of its own, made of the number of
its list and the name that it had; one that lies where a row lay before has the name of that row.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from gristmill.dags.engine.cut_record import first_part
from gristmill.dags.engine.run_folder import DROPPED_ROWS, ROWS, PartStore, RunLayout
from gristmill.pipelines.database import read_stream
from gristmill.pipelines.schema import ROW, digest_fields, make_image_id

REPEATED = "repeated row"
_KNOWN = pa.schema(
    [
        pa.field("uid", pa.string()),
        # Null of rows that their image had too many of.
        pa.field("image_id", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("pointer", pa.string()),
        # Number of its list, from 0.
        pa.field("list", pa.int64()),
    ]
)
# Which list's name a row has: null for its own. What lies where a row lay goes by that row; else
# what has the name of another is of the last list.
_NAMED = """
SELECT scanned.*, CASE
    WHEN lies.image_id = scanned.image_id THEN NULL
    WHEN lies.pointer IS NOT NULL THEN lies.list
    WHEN named.of_this_path THEN NULL
    WHEN named.image_id IS NOT NULL THEN {last}
END AS list
FROM scanned
LEFT JOIN (
    SELECT pointer, min(image_id) AS image_id, min(list) AS list FROM there
    WHERE pointer IS NOT NULL AND image_id IS NOT NULL GROUP BY pointer
) AS lies ON scanned.pointer = lies.pointer AND scanned.url IS NULL
LEFT JOIN (
    SELECT image_id, bool_or(list IN ({same})) AS of_this_path FROM there
    WHERE pointer IS NOT NULL GROUP BY image_id
) AS named
    ON scanned.image_id = named.image_id AND scanned.url IS NULL AND scanned.pointer IS NOT NULL
ORDER BY scanned.row
"""


def read_rows(
    database: duckdb.DuckDBPyConnection, layout: RunLayout, scanned: pa.RecordBatchReader
) -> None:
    """Make the tables `rows`, of what was scanned of the last list, and `there`, of the lists
    before it: each row once, with uid, image_id and row."""
    made = "CREATE TEMP TABLE there AS SELECT * FROM known"
    read_stream(database, "known", _known(layout), made)
    if not layout.additions:
        made = "CREATE TEMP TABLE rows AS SELECT * FROM scanned"
        read_stream(database, "scanned", scanned, made)
        return
    made = "CREATE TABLE scanned AS SELECT * FROM arriving"
    read_stream(database, "arriving", scanned, made)
    paths = [getattr(one.reading, "path", "") for one in layout.lists]
    same = [number for number, path in enumerate(paths[:-1]) if path == paths[-1]]
    sql = _NAMED.format(last=len(layout.additions), same=", ".join(map(str, [-1, *same])))
    named = database.sql(sql).to_arrow_reader(10_000)
    # By another connection, as this one is reading; no temporary table is seen by both.
    with database.cursor() as other:
        made = "CREATE TABLE rows AS SELECT * FROM named"
        read_stream(other, "named", _renamed(named), made)


def _known(layout: RunLayout) -> pa.RecordBatchReader:
    def read() -> Iterator[pa.RecordBatch]:
        if not layout.additions:
            return
        # By a look of its own: others do not know yet what is written here.
        store = PartStore(layout.store(layout.dag.source).folder)
        store.records()
        starts = [first_part(one) for one in layout.lists]
        for number, (start, end) in enumerate(itertools.pairwise(starts)):
            for part in range(start, end):
                for table in _rows_of(store, part):
                    listed = pa.array([number] * len(table), pa.int64())
                    table = table.append_column("list", listed)
                    yield from table.select(_KNOWN.names).cast(_KNOWN).to_batches()

    return pa.RecordBatchReader.from_batches(_KNOWN, read())


def _rows_of(store: PartStore, part: int) -> Iterator[pa.Table]:
    record = store.need(part)
    yield store.table(record, ROWS, ["uid", "image_id", "row", "pointer"])
    if DROPPED_ROWS in record.files:
        aside = store.table(record, DROPPED_ROWS)
        aside = aside.filter(pc.not_equal(aside["reason"], REPEATED)).select(["uid", "row"])
        for name in ("image_id", "pointer"):
            aside = aside.append_column(name, pa.nulls(len(aside), pa.string()))
        yield aside


def _renamed(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """The same rows; those of which `list` says so with another name."""

    def read() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            table = pa.Table.from_batches([batch]).select(ROW.names)
            lists = batch.column("list").to_pylist()
            if any(number is not None for number in lists):
                names = zip(
                    *(table[name].to_pylist() for name in ("uid", "image_id", "sha256")),
                    lists,
                    strict=True,
                )
                renamed = [_name(*one) for one in names]
                for i, name in enumerate(("uid", "image_id")):
                    at = ROW.get_field_index(name)
                    values = pa.array([one[i] for one in renamed], pa.string())
                    table = table.set_column(at, ROW.field(name), values)
            yield from table.cast(ROW).to_batches()

    return pa.RecordBatchReader.from_batches(ROW, read())


def _name(uid: str, image_id: str, sha256: str | None, number: int | None) -> tuple[str, str]:
    # One that is named by its bytes is the same wherever it lies.
    if number is None or (sha256 and image_id == make_image_id("bytes", sha256)):
        return uid, image_id
    return digest_fields("added", str(number), uid), digest_fields("added", str(number), image_id)
