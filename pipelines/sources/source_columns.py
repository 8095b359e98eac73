"""Columns of the source that rows carry on: typed, so that rules name them and shards have them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson
import pyarrow as pa

from gristmill.errors import ConfigurationError, SourceError, nearest
from gristmill.pipelines.decode import Image
from gristmill.pipelines.schema import ROW, ColumnFacts
from gristmill.pipelines.sources.cells import cell_of, missing_column
from gristmill.pipelines.sources.columns import absent_column
from gristmill.pipelines.stage import Score

TYPES = {"bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}
# What people call them as well.
_ALSO = {
    "boolean": "bool",
    "int": "int64",
    "float": "float64",
    "double": "float64",
    "str": "string",
}
# As they are written in a CSV, which knows no types; 007 is a name.
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TRUTH = {"true": True, "false": False}
# What stands in tables of texts where there is no value.
_NOTHING = frozenset(("", "none", "null", "nan", "na", "n/a", "<na>", "-"))


@dataclass(frozen=True, kw_only=True)
class SourceColumns(Score):
    """Columns of the source beside caption and address, as columns of their own.

    A value that is not of the column's type is null, and so is one that a line lacks; a rule that
    names it drops the row as `no value`. Lists and objects are JSON texts.
    """

    # Our column -> the source's, or what lies within one, as for --column: a.b is b within a.
    columns: Mapping[str, str] = field(default_factory=dict)
    # Our column -> bool, int64, float64 or string; what is not named is found by the first rows.
    types: Mapping[str, str] = field(default_factory=dict)

    def reads(self) -> tuple[str, ...]:
        """What the source says beside what rows have."""
        return ("meta",)

    def writes(self) -> pa.Schema:
        """A column for each that is named."""
        return pa.schema(
            [pa.field(name, TYPES[self.types.get(name, "string")]) for name in self.columns]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            ours: ColumnFacts(f"Of the source, as it is there: {theirs}.")
            for ours, theirs in self.columns.items()
        }

    def is_disabled(self) -> bool:
        """Without columns there is nothing to do."""
        return not self.columns

    def check(self) -> None:
        """Validate names and types."""
        known = {name.lower() for name in ROW.names}
        for ours in self.columns:
            if not re.fullmatch(r"[A-Za-z_]\w*", ours):
                raise ConfigurationError(
                    f"{ours!r} is no name of a column; write NAME={self.columns[ours]} with "
                    "letters, digits and underscores"
                )
            if ours.lower() in known:
                raise ConfigurationError(
                    f"rows have a column {ours!r} already; call the source's otherwise: "
                    f"my_{ours}={self.columns[ours]}"
                )
        lower = [ours.lower() for ours in self.columns]
        repeated = next((name for name in lower if lower.count(name) > 1), None)
        if repeated:
            raise ConfigurationError(f"two columns are called {repeated!r}")
        for ours, kind in self.types.items():
            if ours not in self.columns:
                raise ConfigurationError(f"types: {ours!r} is no column that is carried")
            if kind not in TYPES:
                raise ConfigurationError(f"types: {ours} is {kind!r}; {nearest(kind, list(TYPES))}")

    def score(self, table: pa.Table, images: Sequence[Image] | None) -> pa.Table:
        """The values of each row."""
        schema = self.writes()
        found: dict[str, list[object]] = {name: [] for name in schema.names}
        for text in table["meta"].to_pylist():
            values = _object(text)
            for ours, theirs in self.columns.items():
                kind = self.types.get(ours, "string")
                found[ours].append(_typed(cell_of(values, theirs), kind))
        return pa.table(found, schema=schema)

    def is_settled(self) -> bool:
        """Whether all types are known."""
        return set(self.columns) <= set(self.types)

    def settled(self, rows: Iterable[pa.Table], where: str, *, of_text: bool) -> SourceColumns:
        """The same with a type for each column, by the first rows of the source; `of_text`: its
        values are texts whatever they mean, as in a CSV. Raises `SourceError` for a column that
        none of these rows has."""
        objects = [_object(text) for table in rows for text in table["meta"].to_pylist()]
        types = dict(self.types)
        for ours, theirs in self.columns.items():
            if ours in types:
                continue
            # Of what lies within a column only its values tell that it is there.
            within = not any(theirs in values for values in objects)
            if all(missing_column(values, theirs) for values in objects) or (
                within and all(cell_of(values, theirs) is None for values in objects)
            ):
                names = list(dict.fromkeys(name for values in objects for name in values))
                raise SourceError(
                    absent_column(f"{where}, in its first {len(objects)} rows,", theirs, names)
                    + " (address, caption, width, height and licence are columns of a row already; "
                    f"for one that comes later, say its type: {theirs}:float64)"
                )
            types[ours] = _type_of((cell_of(values, theirs) for values in objects), of_text=of_text)
        return dataclasses.replace(self, types=types)


def parse_columns(texts: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """`columns` and `types` of [OURS=]THEIRS[:TYPE], several between commas. Raises
    `ConfigurationError` for an empty name."""
    columns: dict[str, str] = {}
    types: dict[str, str] = {}
    for text in (piece.strip() for one in texts for piece in one.split(",")):
        ours, equals, theirs = text.partition("=")
        theirs = (theirs if equals else ours).strip()
        name, colon, kind = theirs.rpartition(":")
        kind = _ALSO.get(kind.strip(), kind.strip())
        if colon and kind in TYPES:
            theirs = name.strip()
        else:
            kind = ""
        ours = ours.strip() if equals else re.sub(r"\W", "_", theirs)
        if not theirs or not ours:
            raise ConfigurationError(
                f"--keep-columns {text!r}: write NAME, OURS=NAME or NAME:TYPE (types: "
                f"{', '.join(TYPES)})"
            )
        if columns.setdefault(ours, theirs) != theirs:
            raise ConfigurationError(
                f"--keep-columns: {columns[ours]!r} and {theirs!r} would both be called {ours!r}; "
                f"call one otherwise: other_{ours}={theirs}"
            )
        if kind:
            types[ours] = kind
    return columns, types


def _object(text: str | None) -> Mapping[str, object]:
    values = orjson.loads(text) if text else {}
    return values if isinstance(values, dict) else {}


def _type_of(values: Iterable[object], *, of_text: bool) -> str:
    """The narrowest type that all values have; nothing at all is a text."""
    kinds = set()
    for value in values:
        if value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING):
            continue
        if isinstance(value, bool):
            kinds.add("bool")
        elif isinstance(value, int):
            # Beyond 64 bits it is an id or a hash: a float would make several one.
            kinds.add("int64" if -(2**63) <= value < 2**63 else "string")
        elif isinstance(value, float):
            kinds.add("float64")
        elif isinstance(value, str) and of_text:
            kinds.add(_type_of_text(value.strip()))
        else:
            kinds.add("string")
    if kinds == {"int64", "float64"}:
        return "float64"
    return kinds.pop() if len(kinds) == 1 else "string"


def _type_of_text(text: str) -> str:
    if text.lower() in _TRUTH:
        return "bool"
    if _WHOLE.fullmatch(text):
        return "int64" if len(text) < 21 and -(2**63) <= int(text) < 2**63 else "string"
    leading_zero = re.match(r"[+-]?0\d", text)
    return "float64" if _NUMBER.fullmatch(text) and not leading_zero else "string"


def _typed(value: object, kind: str) -> object:
    """A value as one of a type; None if it is none."""
    if value is None:
        return None
    if kind == "string":
        if isinstance(value, str):
            return value
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    if isinstance(value, str):
        value = value.strip()
    if kind == "bool":
        return value if isinstance(value, bool) else _TRUTH.get(str(value).lower())
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        if kind == "int64" and (isinstance(value, int) or _WHOLE.fullmatch(str(value))):
            # Never by way of a float, which tells no two large ids apart.
            whole = int(value)
            return whole if -(2**63) <= whole < 2**63 else None
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if kind == "float64":
        return number if math.isfinite(number) else None
    return int(number) if number.is_integer() and -(2**63) <= number < 2**63 else None
