"""Whether a rule's SQL gives the same answer on the same rows whenever it is asked: one that asks
for the time, or for chance, would write other bytes on every run."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterator

import duckdb

# Words of SQL that stand for a call without brackets -> the function behind them, where DuckDB
# lists it under another name.
_CLOCKS = {
    "current_timestamp": "get_current_timestamp",
    "current_time": "get_current_time",
    "localtime": "get_current_time",
    "localtimestamp": "get_current_timestamp",
}
_CONSISTENT = "CONSISTENT"


def unstable_calls(
    database: duckdb.DuckDBPyConnection, sql: str, columns: Collection[str]
) -> list[str]:
    """Names in the expression `sql` that DuckDB does not call CONSISTENT: `random`, `uuid`, `now`,
    `current_date` ..., also inside macros such as `ago`. A column of that name is no call.

    SQL that does not parse has none: whoever binds it next says what is wrong with it.
    """
    known = {name.lower() for name in columns}
    names = dict.fromkeys(_calls(syntax_tree(database, sql), known))
    return [name for name in names if _is_unstable(database, name, frozenset())]


def syntax_tree(database: duckdb.DuckDBPyConnection, sql: str) -> object:
    """The expression `sql` as DuckDB parses it: its JSON, or that of an error."""
    found = database.execute("SELECT json_serialize_sql(?)", [f"SELECT ({sql}) FROM rows"])
    return json.loads((found.fetchone() or ("{}",))[0])


def _calls(tree: object, columns: Collection[str]) -> Iterator[str]:
    """Every name in a parsed statement that may be a call, in lower case."""
    if isinstance(tree, list):
        for item in tree:
            yield from _calls(item, columns)
    if not isinstance(tree, dict):
        return
    name, path = tree.get("function_name"), tree.get("column_names")
    if isinstance(name, str) and name:
        yield name.lower()
    elif isinstance(path, list) and len(path) == 1 and path[0].lower() not in columns:
        yield path[0].lower()
    for value in tree.values():
        yield from _calls(value, columns)


def _is_unstable(database: duckdb.DuckDBPyConnection, name: str, within: frozenset[str]) -> bool:
    """Whether a call of `name` is; `within`: the macros that it is a part of."""
    for kind, stability, definition in _functions().get(_CLOCKS.get(name, name), ()):
        if kind != "macro":
            if stability != _CONSISTENT:
                return True
        elif definition and name not in within:
            inner = dict.fromkeys(_calls(syntax_tree(database, definition), ()))
            if any(_is_unstable(database, call, within | {name}) for call in inner):
                return True
    return False


@functools.cache
def _functions() -> dict[str, list[tuple[str, str | None, str | None]]]:
    """Name -> (kind, stability, definition of a macro) of everything that DuckDB brings along."""
    found: dict[str, list[tuple[str, str | None, str | None]]] = {}
    with duckdb.connect(":memory:") as database:
        rows = database.execute(
            "SELECT function_name, function_type, stability, macro_definition "
            "FROM duckdb_functions() WHERE function_type IN "
            "('scalar', 'aggregate', 'window', 'macro')"
        ).fetchall()
    for name, *facts in rows:
        found.setdefault(name, []).append(tuple(facts))
    return found
