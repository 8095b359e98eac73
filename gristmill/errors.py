"""The one exception tree. A bad row is data and never raises; a bad program or configuration does.

GristmillError                what went wrong, the value seen, and the remedy
├── ConfigurationError        a field, a rule, a graph or a command line that cannot work
│   ├── GraphError            cycles, unknown stages or nodes, missing columns
│   └── MissingWeightsError   a model whose weights are not to be had here
├── StorageError              storage that cannot be reached, refuses, or gives back other bytes
│   └── BrokenRecordError     a record of ours that is not what was written
├── ShardError                a shard set without manifest, with wrong digests, or unreadable
│   └── SampleError           one sample of a set that cannot be read; the others can
├── RunError                  a run that cannot go on
│   ├── LedgerError           rows that do not add up: a defect, never to be ignored
│   ├── NothingKeptError      shards that would be replaced by nothing; they are left as they are
│   ├── RunLockedError        another process writes into this run
│   ├── DiskFullError         no room left; what is committed stays
│   ├── TrainingError         a training that diverged, or a checkpoint that does not fit
│   └── WorkerError           a stage that keeps failing for a reason that is not a row
│       └── StageError        a stage that breaks its contract, or fails on every row it is given
└── SourceError               a source that cannot be read, or is not what it claims
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not `known`: the nearest that is, or all."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are: {', '.join(names)}" if names else "there are none"


class GristmillError(Exception):
    """Base of everything raised on purpose. The command line prints it without a traceback."""


class ConfigurationError(GristmillError):
    """A field, a rule, a graph or a command line that cannot work; raised before any work
    starts."""


class GraphError(ConfigurationError):
    """A graph with a cycle, an unknown stage or node, or a column that nothing upstream writes."""


class MissingWeightsError(ConfigurationError):
    """A model whose weights are neither on disk nor to be downloaded; `setting` is the field of the
    stage that names another place, if one does."""

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class SourceError(GristmillError):
    """A source that cannot be read, or whose columns are not those that were mapped."""


class StorageError(GristmillError):
    """A disk or a store that cannot be reached, refuses, or gives other bytes than it took; what is
    committed stays."""


class BrokenRecordError(StorageError):
    """A record of ours (a small JSON file) that is not what was written: cut, or changed."""


class RunError(GristmillError):
    """A run that cannot go on."""


class LedgerError(RunError):
    """Rows in and rows out do not add up. Always a defect; the shards are not to be trusted."""


class NothingKeptError(RunError):
    """No row is kept, and there are shards, which stay as they are."""


class RunLockedError(RunError):
    """Another process writes into the same run folder."""


class DiskFullError(RunError):
    """The disk is full. Everything committed stays; the same command goes on after making room."""


class WorkerError(RunError):
    """A stage failed for a reason that is not a row: a defect in its code or its environment."""


class StageError(WorkerError):
    """A stage whose output is not what it said it would be, or whose code fails on every row."""


class TrainingError(RunError):
    """A training that diverged, or a checkpoint that is broken or of another model."""


class ShardError(GristmillError):
    """A shard set without a manifest, with wrong digests, or with members that cannot be read."""


class SampleError(ShardError):
    """One sample of a shard set that cannot be read: a training goes on without it, and counts
    it. The message is a short countable reason."""


def require_known(what: str, name: str, choices: Iterable[str]) -> None:
    """Raise `ConfigurationError` unless `name` is one of `choices`; `what` says what it names."""
    known = list(choices)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigurationError(f"{what} {name!r}: {hint}choose one of {', '.join(known)}")
