"""What says into how many parts the lists of a run were cut, and of how many rows."""

from __future__ import annotations

from gristmill.dags.engine.run_folder import RunLayout
from gristmill.errors import RunError
from gristmill.pipelines.sealed import find_sealed, write_sealed

PARTS = "parts.json"


def parts_done(layout: RunLayout) -> int | None:
    """Number of parts of all lists, if they have all been cut; None also where what says so cannot
    be believed: they are cut again then."""
    cut = cut_done(layout)
    return None if cut is None else cut[0]


def cut_done(layout: RunLayout) -> tuple[int, int] | None:
    """`parts_done`, and the rows of all lists."""
    cut = _cut_record(layout)
    return None if cut is None else (int(cut["parts"]), int(cut["rows"]))


def rows_of_source(layout: RunLayout) -> int:
    """Rows of all lists, once their parts have been cut."""
    cut = cut_done(layout)
    if cut is None:
        raise RunError(f"{layout.url}: the parts of its source are not cut; run again")
    return cut[1]


def chunks_of_source(layout: RunLayout) -> int | None:
    """How many scanned chunks the parts of the last list were cut from; None if that is not
    known."""
    cut = _cut_record(layout) or {}
    return int(cut["chunks"]) if "chunks" in cut else None


def first_part(layout: RunLayout) -> int:
    """Number of the first part of the last list: 0 for that of a run with one list."""
    if not layout.additions:
        return 0
    parts = parts_done(layout.before)
    if parts is None:
        raise RunError(f"{layout.url}: the parts of its first list are not cut; run again")
    return parts


def first_row(layout: RunLayout) -> int:
    """Number of the first row of the last list."""
    return rows_of_source(layout.before) if layout.additions else 0


def write_cut(layout: RunLayout, parts: int, rows: int, chunks: int) -> None:
    """Say that the last list has been cut from so many chunks, into parts and rows that are so many
    with those of the lists before."""
    facts: dict[str, object] = {
        "parts": parts, "rows": rows, "chunks": chunks, "limit": layout.rows_to_take,
    }  # fmt: skip
    if layout.additions:
        place = [first_part(layout), first_row(layout)]
        facts |= {"first": place, "list": layout.additions[-1].digest}
    write_sealed(layout.folder.sub(layout.last_folder(layout.dag.source)), PARTS, facts)


def _cut_record(layout: RunLayout) -> dict[str, int] | None:
    folder = layout.folder.sub(layout.last_folder(layout.dag.source))
    cut = find_sealed(folder, PARTS)
    if cut is None or not {"parts", "rows"} <= set(cut):
        return None
    if not layout.additions:
        return cut
    # It counts on from the lists before, as they were.
    before = cut_done(layout.before)
    fits = before is not None and cut.get("first") == list(before)
    return cut if fits and cut.get("list") == layout.additions[-1].digest else None
