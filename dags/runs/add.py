"""Another list for a run that came to its end: its rows go through the same nodes, into shards of
their own; nothing that is there is done again, and what is kept already wins."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gristmill.dags.engine.additions import (
    Addition,
    manifest_digest,
    write_additions,
)
from gristmill.dags.engine.cut_record import parts_done
from gristmill.dags.engine.execute import RunOptions, execute_layout
from gristmill.dags.engine.fingerprint import fingerprint
from gristmill.dags.engine.lay_out import check_source
from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.read_parts import ask_source
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.run_lock import run_lock
from gristmill.dags.engine.source_types import check_list
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.runs.plan import open_run, require_finished, where_it_ran
from gristmill.dags.settings import apply_settings
from gristmill.errors import ConfigurationError, RunError
from gristmill.pipelines.sealed import find_sealed
from gristmill.pipelines.stage import Global, Read, Write

# Fields of a source that say where one list lies and how it is written: another has its own.
_OF_A_LIST = ("path", "format", "images", "name", "sample")


@dataclass(frozen=True)
class Added:
    """What an addition came to."""

    # None where there was nothing to add.
    summary: RunSummary | None
    # What there was to say about it; empty if nothing.
    note: str = ""


def added_source(
    layout: RunLayout, fields: Mapping[str, Any], settings: Sequence[str] = ()
) -> Read:
    """How a list is read that is added to a run: as the first was, but for what is said of it, by
    paths as they are here. `settings` are texts such as `source.captions_per_image=5`.

    Raises `ConfigurationError` for fields that the run's source does not have."""
    node = layout.dag.source
    base = layout.dag.stage(node)
    declared = {field.name: field for field in dataclasses.fields(base)}
    for name in fields:
        if name not in declared:
            raise ConfigurationError(
                f"the source of this run, {type(base).__name__}, has no {name}; say what it has "
                f"with --set {node}.NAME=VALUE"
            )
    own = {
        name: declared[name].default
        for name in _OF_A_LIST
        if name in declared and declared[name].default is not dataclasses.MISSING
    }
    dag = layout.dag.replace(node, dataclasses.replace(base, **{**own, **fields}))
    for text in settings:
        if not text.startswith(f"{node}."):
            raise ConfigurationError(
                f"--set {text}: a list is added to the run as it is; only {node}.NAME=VALUE says "
                "something of the list"
            )
    stage = apply_settings(dag, settings).stage(node)
    assert isinstance(stage, Read)
    here = os.getcwd()
    with where_it_ran(layout):
        moved = os.getcwd() != here
    # Relative paths of a run start where it was started.
    return stage.absolute() if moved else stage


def add(
    out: str, source: Read | None, options: RunOptions, progress: Progress, *, limit: int = 0
) -> Added:
    """Add a list to the run in a folder; `source` None goes on with one that did not come to its
    end. Raises `RunError` for a run that did not, or where another list is on its way."""
    layout = open_run(out, begun=True)
    with where_it_ran(layout):
        _check_run(layout)
        with run_lock(layout.folder, lock=options.lock):
            found = _next(layout, source, limit)
        if isinstance(found, str):
            return Added(None, found)
        return Added(execute_layout(found, options, progress, last_list=True))


def _check_run(layout: RunLayout) -> None:
    """Raise for a run that nothing can be added to: what is there is taken as it is."""
    require_finished(layout)
    folder = layout.folder
    whole = find_sealed(folder, "run.json") or {}
    same = whole.get("dag_yaml") == folder.read_bytes("dag.yaml").decode()
    done = layout.upto(len(whole.get("additions", [])))
    for node in layout.dag.order():
        stage = layout.dag.stage(node)
        if isinstance(stage, (Global, Write)):
            last = folder.sub(done.last_folder(node))
            same = same and find_sealed(last, "finished.json") is not None
        if not same:
            raise RunError(
                f"{layout.url} has not come to its end as it was begun last; run the same command "
                "again, then add"
            )
        if isinstance(stage, Write) and not stage.takes_additions:
            raise ConfigurationError(
                f"node {node!r} ({type(stage).__name__}) writes its product as a whole: nothing "
                "can be added to it; run both lists as one, or let it say takes_additions"
            )


def _next(layout: RunLayout, source: Read | None, limit: int) -> RunLayout | str:
    """The run with the list that is to be added; a text where there is none to add."""
    folder = layout.folder
    there = layout.additions
    whole = find_sealed(folder, "run.json") or {}
    is_open = [one.stored() for one in there] != whole.get("additions", [])
    if is_open and parts_done(layout) is None:
        # Nothing of it is anywhere yet: it gives way to another.
        stays, open_one = there[:-1], None
    else:
        stays, open_one = there, there[-1] if is_open else None
    if source is None:
        if not is_open:
            raise ConfigurationError("no list is on its way; give the list with --source")
        return layout
    found = _described(layout, source, limit)
    if open_one is not None:
        if found != open_one:
            raise RunError(
                f"a list is being added to {layout.url} that has not come to its end; `gristmill "
                f"add {layout.url}` without --source goes on with it, then add this one"
            )
        return layout
    if found in stays or _is_first(layout, source, limit):
        return "nothing to add: this very list is in the run already"
    layout = dataclasses.replace(layout, additions=(*stays, found))
    check_source(layout)
    ask_source(layout.dag, partial(check_list, layout.dag, source))
    if found not in there:
        folder.remove(layout.last_folder(layout.dag.source))
        write_additions(folder, layout.additions)
    return layout


def _is_first(layout: RunLayout, source: Read, limit: int) -> bool:
    """Whether a list is the one that the run began with."""
    manifest = ask_source(layout.dag, source.manifest)
    of_source = {"manifest": manifest, "limit": limit, "part_rows": layout.dag.part_rows}
    return fingerprint(source, [], of_source) == layout.fingerprints[layout.dag.source]


def _described(layout: RunLayout, source: Read, limit: int) -> Addition:
    if limit < 0:
        raise ConfigurationError(f"limit is {limit}; 0 means all rows")
    ask_source(layout.dag, source.check)
    return Addition(source, manifest_digest(ask_source(layout.dag, source.manifest)), limit)
