"""What a stage is: a frozen, keyword-only dataclass whose fields are its whole configuration.

Five shapes (Read, Map, Score, Global, Keep/Write) cover everything a pipeline does. A stage works
on Arrow tables; it knows nothing of Ray, of run folders or of parts. Runners call it; so can a
notebook.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypedDict, TypeVar

import pyarrow as pa

from gristmill.errors import ConfigurationError, GraphError, nearest
from gristmill.pipelines.contract import MapContract, check_columns
from gristmill.pipelines.media import Decoded, Media
from gristmill.pipelines.schema import ROW, ColumnFacts, range_text
from gristmill.pipelines.workspace import Workspace as Workspace

_T = TypeVar("_T")


def setting(
    default: _T,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    later: bool = False,
) -> _T:
    """Declare a field with its unit, and the values that it may have.

    The comment above a field says what it is for; `gristmill stages` shows both, and a run checks
    the values before it starts (`check_settings`). `later`: the field came after runs had been made
    without it, and its default is what they did, so that only other values enter fingerprints.
    """
    metadata = {"unit": unit, "low": low, "high": high, "choices": tuple(choices), "later": later}
    return dataclasses.field(default=default, metadata=metadata)


def execution(
    default: _T, *, unit: str = "", low: float | None = None, high: float | None = None
) -> _T:
    """Declare a field that changes how fast a stage runs but never what it writes.

    Such fields stay out of fingerprints, so changing them reuses finished work.
    """
    metadata = {"execution": True, "unit": unit, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


def fields_of(value: object, base: type) -> dict[str, Any]:
    """The fields of `value` that `base` declares, by name: what a stage hands on of what it
    inherits."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(base)}


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one worker of a stage occupies."""

    cpus: float = 1.0
    gpus: float = 0.0
    # Peak memory of one worker, GiB; nodes that share a worker share a process of the default size.
    memory_gb: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step. Subclass one of the five shapes below rather than this."""

    # Raise when the meaning of the output changes; part of every fingerprint.
    version: ClassVar[int] = 1
    # Distributions whose version decides the output's bytes; part of every fingerprint.
    libraries: ClassVar[tuple[str, ...]] = ()

    def reads(self) -> tuple[str, ...]:
        """Columns that must come in."""
        return ()

    def writes(self) -> pa.Schema:
        """Columns that this stage adds or replaces, typed; never of null type."""
        return pa.schema([])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What those columns mean, in which unit, between which ends; those of `ROW_FACTS` need no
        entry. A rule that compares a column with what it can never be is warned of."""
        return {}

    def needs(self) -> Needs:
        """What one worker occupies."""
        return Needs()

    def files(self) -> tuple[str, ...]:
        """Local files that the stage loads; their digests enter the fingerprint."""
        return ()

    def check(self) -> None:
        """Raise `ConfigurationError` for whatever can be known to be wrong before any work."""

    def weights(self) -> tuple[str, ...]:
        """Weights that lie in no file which a field names, each with whether this machine has
        them."""
        return ()

    def check_weights(self) -> None:
        """Raise `MissingWeightsError` for weights that this machine neither has nor gets; called
        wherever workers run, before any work."""

    def resolve_columns(self, available: pa.Schema) -> tuple[str, ...]:
        """The columns this stage will read, given those that come in.

        Raises `GraphError`, naming the nearest column, if one that it needs is not among them.
        """
        for name in self.reads():
            if name not in available.names:
                raise GraphError(missing_column(type(self).__name__, name, available.names))
        return self.reads()

    def is_disabled(self) -> bool:
        """Whether its fields leave it nothing to do; such a node is left out of a run."""
        return False

    def notes(self) -> list[str]:
        """What a person should know, one line each; of a Read, what was left aside."""
        return []

    def prepare(self) -> None:
        """Load what the stage needs, once per worker, before its deadlines start to count."""


class ManifestEntry(TypedDict):
    """A file of a source; `size` in bytes if the store tells, `modified` as the store says it."""

    name: str
    size: int | None
    modified: str


@dataclass(frozen=True, kw_only=True)
class Read(Stage):
    """Source -> parts of rows. Chunks are read in parallel; the runner cuts the parts."""

    def writes(self) -> pa.Schema:
        """The columns of a row."""
        return ROW

    def manifest(self) -> list[ManifestEntry]:
        """What the source consists of ("name", "size", "modified"), sorted; part of fingerprints.

        Raises `SourceError` for a source that is missing, empty or unreadable.
        """
        raise NotImplementedError

    def check_columns(self) -> None:
        """Raise `SourceError` for a table without the columns that rows are made of, by its first
        lines or its schema alone: before any work, and only where the source is still to be
        read."""

    def chunks(self) -> Sequence[Any]:
        """Picklable units that can be read on their own, in the order of the source."""
        raise NotImplementedError

    def read(self, chunk: Any) -> Iterator[pa.Table]:
        """Tables of at most 10,000 rows with the schema `ROW`; `row` counts within the chunk."""
        raise NotImplementedError

    def estimate_rows(self) -> int | None:
        """About how many rows there are, without reading them; None if only that would tell (parts
        of a source of your own have 1,000 rows then)."""
        return None

    def largest_part(self) -> int:
        """Rows of a part of a large source: some minutes of work."""
        return 10_000

    def most_captions(self) -> int:
        """Rows of one image that are taken, the first of them; 0: all."""
        return 0

    def absolute(self) -> Self:
        """The same source, by paths that mean the same in any folder."""
        return self


@dataclass(frozen=True, kw_only=True)
class Map(Stage):
    """Part of rows -> part of rows, 0..n out for each in; children carry `parent_uid`.

    A row that cannot be processed is yielded with its `status` and `error` set: at least one row
    comes out for each that goes in, and every row whose status is not `success` ends here, in the
    ledger; `merged` says that its content goes on in another row.
    """

    # True: `map` is called row by row, with the stored bytes in the column `image`.
    takes_bytes: ClassVar[bool] = False
    # Rows that share this column are never torn apart when a part is halved to find a poison row.
    group_by: ClassVar[str] = ""

    def map(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yield the rows of `table`, done, in any order and grouping; the caller restores the
        order.

        Yield often: each table is written to disk at once, and silence longer than the row
        deadline is taken for a hang. Columns: those of `table` with `writes()` added or replaced;
        if `writes()` names `image` (binary), the bytes are stored beside the part, not in it.
        """
        raise NotImplementedError

    def is_retryable(self, status: str, error: str) -> bool:
        """Whether a failed row is worth another try when a person asks for it."""
        return False

    def forwards_column(self, column: str) -> bool:
        """Whether a column that comes in goes on to what follows; else it must not come out."""
        return True

    def __call__(self, table: pa.Table) -> pa.Table:
        """Map a whole table at once, for notebooks and tests."""
        contract = MapContract(type(self).__name__, self.writes(), self.forwards_column, table)
        found = [contract.check(out) for out in self.map(table)]
        contract.close()
        return pa.concat_tables(found)


@dataclass(frozen=True, kw_only=True)
class Score(Stage):
    """Part of rows -> columns for the same rows, in the same order. Never drops a row."""

    # What `score` is handed of each row: PICTURE, PICTURES, CLIP, FILE. Nodes that look at the same
    # rows in the same way share one decode.
    media: ClassVar[Media | None] = None

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Return a table of exactly the columns `writes()`, one row per row of `table`.

        `table` has the columns `reads()`; `images` is None without `media`. The caller hands
        blocks whose composition depends on the data alone, so a batched model gives the same
        bytes on every run.
        """
        raise NotImplementedError

    def __call__(self, table: pa.Table) -> pa.Table:
        """Append the scores to `table`; what they look at is decoded from its `image` column, which
        holds lists of bytes where a row has several pictures."""
        images = None
        if self.media is not None:
            decode = self.media.decode
            stored = table["image"].to_pylist()
            if self.media.multi_image:
                images = [[decode(data) for data in pieces] for pieces in stored]
            else:
                images = [decode(data) for data in stored]
        scores = self.score(table, images)
        scores = check_columns(type(self).__name__, self.writes(), scores, len(table))
        for name in scores.column_names:
            table = table.append_column(scores.schema.field(name), scores[name])
        return table


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One committed step of a Global or Write stage: tasks that do not depend on one another.

    `count(workspace)` tells how many there are once all earlier phases are done; `work(workspace,
    i)` does one, saving through the workspace. A task that was committed is not done again.
    """

    name: str
    count: Callable[[Workspace], int]
    work: Callable[[Workspace, int], None]


@dataclass(frozen=True, kw_only=True)
class Global(Stage):
    """Columns of all parts -> columns. The result must not depend on part size, order or
    workers."""

    def phases(self) -> tuple[Phase, ...]:
        """The committed steps, in order."""
        raise NotImplementedError

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """After the phases: the columns `writes()` for the rows of one part, in their order."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Write(Stage):
    """Rows that were kept, and their bytes -> a product for others to read."""

    # Whether it can add what a later list brings to a product that is there, all of which stays.
    takes_additions: ClassVar[bool] = False

    def phases(self) -> tuple[Phase, ...]:
        """The committed steps, in order; the last writes the manifest."""
        raise NotImplementedError


def missing_column(reader: str, name: str, available: Sequence[str]) -> str:
    """The message for a column that nothing upstream writes."""
    return (
        f"{reader} reads column {name!r}, which no node before it writes; "
        f"{nearest(name, sorted(available))}"
    )


def is_execution(field: dataclasses.Field[Any]) -> bool:
    """Whether a field changes speed only."""
    return bool(field.metadata.get("execution", False))


def is_later_default(stage: Stage, field: dataclasses.Field[Any]) -> bool:
    """Whether a field that came later says what was done before it was; of mappings: nothing."""
    return bool(field.metadata.get("later")) and getattr(stage, field.name) in (field.default, {})


def require_choice(stage: Stage, name: str) -> None:
    """Raise `ConfigurationError` unless the field `name`, or each item of it, is one of the choices
    that it was declared with."""
    declared = next(field for field in dataclasses.fields(stage) if field.name == name)
    choices = declared.metadata["choices"]
    value = getattr(stage, name)
    for one in value if isinstance(value, tuple) else (value,):
        if one not in choices:
            raise ConfigurationError(
                f"{type(stage).__name__}.{name} is {one!r}; choose one of {', '.join(choices)}"
            )


def check_settings(stage: Stage) -> None:
    """Raise `ConfigurationError` for a field that is not what it was declared to be."""
    for declared in dataclasses.fields(stage):
        facts, value = declared.metadata, getattr(stage, declared.name)
        if facts.get("choices"):
            require_choice(stage, declared.name)
        if isinstance(value, (int, float)):
            low, high = facts.get("low"), facts.get("high")
            if (low is not None and value < low) or (high is not None and value > high):
                raise ConfigurationError(
                    f"{type(stage).__name__}.{declared.name} is {value:g}; "
                    f"it must be {range_text(low, high)}"
                )
