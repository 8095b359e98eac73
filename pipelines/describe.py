"""What a stage is, for people: read from its class, so that the command line and the documentation
say what the code does.

The text of a field is the comment above it; the text of a column is what `Stage.describes` says.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

from gristmill.errors import GraphError
from gristmill.pipelines import STAGES, stage_class, stage_name
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.schema import ROW_FACTS, ColumnFacts, range_text
from gristmill.pipelines.stage import (
    Global,
    Map,
    Read,
    Score,
    Stage,
    Write,
    is_execution,
)

# A full stop, and something that begins a sentence.
_SENTENCE = re.compile(r"(?<=[.])\s+(?=[A-Z`(])")
SHAPES = {Read: "Read", Map: "Map", Score: "Score", Keep: "Keep", Global: "Global", Write: "Write"}


@dataclass(frozen=True, kw_only=True)
class FieldDescription:
    """A field of a stage: what `--set node.field=value` may be given."""

    name: str
    # As annotated: "int", "tuple[str, ...]".
    type: str
    # As Python writes it; empty for a field without a default.
    default: str
    text: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    # Changes how fast the stage runs, never what it writes.
    execution: bool = False

    @property
    def limits(self) -> str:
        """Unit and range, or the choices: "pixels, at least 1", "drop | keep"."""
        if self.choices:
            return " | ".join(self.choices)
        return ", ".join(word for word in (self.unit, range_text(self.low, self.high)) if word)


@dataclass(frozen=True, kw_only=True)
class ColumnDescription:
    """A column that a stage writes: what a rule may name."""

    name: str
    # Of Arrow; empty for a column that the stage does not write as it is configured.
    type: str
    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    # What must be set for the column to be there; empty: it is there.
    only_with: str = ""

    @property
    def limits(self) -> str:
        """Unit and range: "pixels, at least 1", "0..1"."""
        return ", ".join(word for word in (self.unit, range_text(self.low, self.high)) if word)


@dataclass(frozen=True, kw_only=True)
class StageDescription:
    """A stage: its shape, its text, its fields and its columns."""

    # As in a DAG file.
    name: str
    # Read, Map, Score, Global, Keep or Write.
    shape: str
    # First sentence of the docstring.
    summary: str
    # The docstring, whole.
    doc: str
    # Columns that must come in.
    reads: tuple[str, ...]
    fields: tuple[FieldDescription, ...]
    columns: tuple[ColumnDescription, ...]


def describe_stage(stage: Stage | type[Stage]) -> StageDescription:
    """A stage as it is configured, or, of a class, as it is by default."""
    configured = stage() if isinstance(stage, type) else stage
    cls = type(configured)
    doc = inspect.cleandoc(cls.__doc__ or "")
    return StageDescription(
        name=stage_name(cls),
        shape=next((name for shape, name in SHAPES.items() if issubclass(cls, shape)), "Stage"),
        summary=summary_of(doc),
        doc=doc,
        reads=configured.reads(),
        fields=describe_fields(cls),
        columns=describe_columns(configured),
    )


def describe_fields(cls: type) -> tuple[FieldDescription, ...]:
    """The fields of a dataclass, in order: of a stage, or of options of ours."""
    return tuple(_field(cls, field) for field in dataclasses.fields(cls))


def describe_stages() -> tuple[StageDescription, ...]:
    """All stages of ours, in the order of `STAGES`."""
    return tuple(describe_stage(find_stage(name)) for name in STAGES)


def find_stage(name: str) -> type[Stage]:
    """The class of a stage by its name in a DAG file; raises `GraphError` if there is none."""
    found = stage_class(name)
    if not issubclass(found, Stage):
        raise GraphError(f"{name!r} is no stage; derive it from Read, Map, Score, Global or Write")
    return found


def describe_columns(stage: Stage) -> tuple[ColumnDescription, ...]:
    """The columns that a stage writes, then those that it would write if it were told to."""
    facts, schema = column_facts(stage), stage.writes()
    written = [_column(field.name, str(field.type), facts) for field in schema]
    others = [
        dataclasses.replace(_column(name, "", facts), only_with=found.only_with)
        for name, found in stage.describes().items()
        if name not in schema.names and found.only_with
    ]
    return (*written, *others)


def column_facts(stage: Stage) -> Mapping[str, ColumnFacts]:
    """What is known of each column that a stage may write."""
    return {**ROW_FACTS, **stage.describes()}


def summary_of(doc: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(doc.split("\n\n")[0].split())
    return _SENTENCE.split(paragraph, maxsplit=1)[0]


def _column(name: str, kind: str, facts: Mapping[str, ColumnFacts]) -> ColumnDescription:
    found = facts.get(name, ColumnFacts(""))
    return ColumnDescription(
        name=name,
        type=kind,
        meaning=found.meaning,
        unit=found.unit,
        low=found.low,
        high=found.high,
    )


def _field(cls: type, field: dataclasses.Field[object]) -> FieldDescription:
    facts = field.metadata
    return FieldDescription(
        name=field.name,
        type=field.type if isinstance(field.type, str) else inspect.formatannotation(field.type),
        default=_default(field),
        text=_text(cls, field.name),
        unit=facts.get("unit", ""),
        low=facts.get("low"),
        high=facts.get("high"),
        choices=facts.get("choices", ()),
        execution=is_execution(field),
    )


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return ""


def _text(cls: type, name: str) -> str:
    """The comment above a field, in the class that declares it last."""
    for owner in cls.__mro__:
        if name in inspect.get_annotations(owner):
            return _comments(owner).get(name, "")
    return ""


@functools.cache
def _comments(cls: type) -> Mapping[str, str]:
    """The comment lines right above each annotated name of a class; none without its source."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    lines = source.splitlines()
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = [], node.lineno - 2
            while lines[line].strip().startswith("#"):
                above.append(lines[line].strip().lstrip("#").strip())
                line -= 1
            found[node.target.id] = " ".join(reversed(above))
    return found
