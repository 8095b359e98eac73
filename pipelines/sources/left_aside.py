"""What a source leaves aside, for its notes: files of other kinds, pictures in other columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gristmill.pipelines.locate import open_url
from gristmill.pipelines.sources.formats import is_hidden
from gristmill.pipelines.sources.parquet import image_column, image_columns, open_parquet
from gristmill.pipelines.storage import Folder


def counted(names: Sequence[str]) -> str:
    """How many files of each ending there are among names."""
    counts: dict[str, int] = {}
    for name in names:
        base = name.rpartition("/")[2]
        ending = base[base.rfind(".") :] if "." in base else "without ending"
        if any(map(is_hidden, name.split("/"))):
            ending = "hidden files"
        counts[ending] = counts.get(ending, 0) + 1
    return ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))


def other_files(path: str, taken: Collection[str]) -> list[str]:
    """Names in a folder of tables or tars that are none of those that are read (`taken`, URLs)."""
    folder = Folder(path)
    urls = set(taken)
    return [
        name
        for name in folder.walk()
        if folder.join_url(name) not in urls and not name.endswith("_stats.json")
    ]


def other_pictures(table: str, given: str | None, kind: str) -> list[str]:
    """Of a Parquet file with pictures in several columns, a line about those that are left aside;
    `given`: the column that a person named."""
    with open_url(table) as file:
        schema = open_parquet(table, file).schema_arrow
    taken = given or image_column(schema)
    others = [name for name in image_columns(schema) if name != taken]
    if not others:
        return []
    return [
        f"{table}: {kind}s are taken from the column {taken}; those in {', '.join(others)} are "
        "left aside (--column image=NAME takes them)"
    ]
