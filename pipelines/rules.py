"""Rules before they are asked: what they name, whether they can work, and whether they compare a
column with what it can never be."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import duckdb
import pyarrow as pa

from gristmill.errors import ConfigurationError, GraphError, nearest
from gristmill.pipelines.database import open_database
from gristmill.pipelines.rule_stability import syntax_tree, unstable_calls
from gristmill.pipelines.schema import ColumnFacts, range_text
from gristmill.pipelines.stage import missing_column

_QUANTILE = re.compile(r"quantile\(\s*([A-Za-z_]\w*)\s*,\s*([0-9.eE+-]+)\s*\)", re.IGNORECASE)
_WORD = re.compile(r"'(?:[^']|'')*'|[A-Za-z_]\w*")


def columns_in(rule: str, available: Collection[str]) -> list[str]:
    """The columns among `available` that a rule names, in its order."""
    return [word for word in dict.fromkeys(_WORD.findall(rule)) if word in available]


def with_quantiles(rule: str, value: Callable[[str, float], str]) -> str:
    """A rule with what `value` gives for each `quantile(column, q)` in its place."""
    return _QUANTILE.sub(lambda match: value(match.group(1), float(match.group(2))), rule)


def quantile_name(column: str, q: float) -> str:
    """A quantile as people read it: one of its name has one value."""
    return f"quantile({column}, {q:g})"


def quantiles_in(rules: Mapping[str, str]) -> dict[str, tuple[str, float]]:
    """Name -> (column, share) of every quantile in the rules, in their order."""
    found = [(column, float(q)) for rule in rules.values() for column, q in _QUANTILE.findall(rule)]
    return {quantile_name(column, q): (column, q) for column, q in found}


@functools.cache
def looks_beyond_its_row(rule: str) -> bool:
    """Whether a rule asks for other rows than the one it is about, by a window or a subquery."""
    with open_database(is_locked=True) as database:
        return _has_class(syntax_tree(database, _plain(rule)), {"WINDOW", "SUBQUERY"})


def _has_class(tree: object, classes: Collection[str]) -> bool:
    """Whether something in a parsed statement is of one of these classes."""
    if isinstance(tree, list):
        return any(_has_class(item, classes) for item in tree)
    if not isinstance(tree, dict):
        return False
    return tree.get("class") in classes or any(_has_class(v, classes) for v in tree.values())


def check_quantiles(rules: Mapping[str, str]) -> None:
    """Raise `ConfigurationError` for a quantile that is no share."""
    for reason, rule in rules.items():
        for _, q in _QUANTILE.findall(rule):
            if not 0 <= float(q) <= 1:
                raise ConfigurationError(f"rule {reason!r}: quantile {q} is not between 0 and 1")


def try_rules(rules: Mapping[str, str], names: Sequence[str], available: pa.Schema) -> None:
    """Try every rule on a table of no rows with the columns `names` of `available`.

    Raises `GraphError` for one that SQL refuses (a column that is not there is named, with the
    nearest that is), that gives no truth value, or whose answer changes with the time.
    """
    with open_database(is_locked=True) as database:
        empty = pa.schema([available.field(name) for name in names]).empty_table()
        for name in names:
            if holds_halves(available.field(name).type):
                raise GraphError(
                    f"column {name!r} is a {available.field(name).type}, which SQL cannot read; "
                    "write rules over scores that are made of it"
                )
        database.register("rows", empty.append_column("uid", pa.array([], pa.string())))
        for reason, rule in rules.items():
            for column, _ in _QUANTILE.findall(rule):
                if column not in available.names:
                    raise GraphError(missing_column("Keep", column, available.names))
            _try_rule(database, reason, rule, available.names)


def holds_halves(kind: pa.DataType) -> bool:
    """Whether values are, or are made of, floats of 16 bits, which DuckDB does not take."""
    inner = (kind.field(i).type for i in range(kind.num_fields))
    return bool(pa.types.is_float16(kind)) or any(map(holds_halves, inner))


def _try_rule(
    database: duckdb.DuckDBPyConnection, reason: str, rule: str, available: Sequence[str]
) -> None:
    sql = _plain(rule)
    if calls := unstable_calls(database, sql, available):
        raise GraphError(
            f"rule {reason!r} ({rule}) asks {', '.join(calls)}, which answers otherwise every "
            "time: another run would keep other rows; compare with a fixed value"
        )
    try:
        relation = database.sql(f"SELECT ({sql}) AS broken FROM rows")
        if str(relation.types[0]) != "BOOLEAN":
            raise GraphError(
                f"rule {reason!r} ({rule}) gives {relation.types[0]}, not a truth value"
            )
    except duckdb.Error as error:
        strange = [name for name in _columns(syntax_tree(database, sql)) if name not in available]
        if strange:
            raise GraphError(
                f"rule {reason!r} ({rule}) names {strange[0]!r}, which does not enter the node; "
                f"{nearest(strange[0], sorted(available))}"
            ) from error
        raise GraphError(
            f"rule {reason!r} ({rule}) is refused: {str(error).strip()}\n"
            f"columns that enter the node: {', '.join(sorted(available))}"
        ) from error


def range_warnings(rules: Mapping[str, str], facts: Mapping[str, ColumnFacts]) -> dict[str, str]:
    """Reason -> warning, for each rule that compares a column with a number outside of its range:
    such a comparison is true of every row, or of none."""
    found: dict[str, str] = {}
    with open_database(is_locked=True) as database:
        for reason, rule in rules.items():
            for column, value in _compared(syntax_tree(database, _plain(rule))):
                known = facts.get(column, ColumnFacts(""))
                below = known.low is not None and value < known.low
                above = known.high is not None and value > known.high
                if below or above:
                    unit = f" ({known.unit})" if known.unit else ""
                    found[reason] = (
                        f"{column} is {range_text(known.low, known.high)}{unit}; the rule compares "
                        f"it with {value:g}"
                    )
    return found


def _plain(rule: str) -> str:
    """A rule with a number for each quantile, for the parser."""
    return with_quantiles(rule, lambda _column, _q: "CAST(NULL AS DOUBLE)")


def _columns(tree: object) -> Iterator[str]:
    """Every column that a parsed statement names."""
    if isinstance(tree, list):
        for item in tree:
            yield from _columns(item)
    if isinstance(tree, dict):
        if tree.get("class") == "COLUMN_REF":
            yield str(tree["column_names"][-1])
        for value in tree.values():
            yield from _columns(value)


def _compared(tree: object) -> Iterator[tuple[str, float]]:
    """(column, number) wherever a parsed statement compares one with the other."""
    if isinstance(tree, list):
        for item in tree:
            yield from _compared(item)
    if not isinstance(tree, dict):
        return
    if tree.get("class") == "COMPARISON":
        sides = [tree["left"], tree["right"]]
    elif tree.get("class") == "BETWEEN":
        sides = [tree["input"], tree["lower"], tree["upper"]]
    else:
        sides = []
    columns = [side["column_names"][-1] for side in sides if side["class"] == "COLUMN_REF"]
    numbers = [_number(side) for side in sides]
    if len(columns) == 1:
        yield from ((str(columns[0]), number) for number in numbers if number is not None)
    for value in tree.values():
        yield from _compared(value)


def _number(side: Mapping[str, object]) -> float | None:
    literal = side.get("literal")
    if side.get("class") != "CONSTANT" or not isinstance(literal, dict):
        return None
    if literal.get("kind") not in ("INTEGER", "NUMERIC"):
        return None
    return float(str(literal["text"]).replace("_", ""))
