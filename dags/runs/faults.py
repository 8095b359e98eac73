"""What is wrong with the files of a run, each with the record that has to go for it to be made
again.

Data files are named by records, with their size and digest: a part's commit record, a phase's
record, `ledger.json`. Records are sealed. How many there must be is said by `parts.json`,
`finished.json` and `run.json`. So whatever is cut, changed or missing is found, but in what nobody
names: logs, the report, the lock.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from gristmill.dags.engine.additions import ADDITIONS
from gristmill.dags.engine.barriers import PHASE, files_written, owner_name
from gristmill.dags.engine.checked import what_is_wrong
from gristmill.dags.engine.cut_record import PARTS, chunks_of_source, parts_done
from gristmill.dags.engine.ledger_writer import LEDGER
from gristmill.dags.engine.read_parts import scans
from gristmill.dags.engine.records import FileRecord
from gristmill.dags.engine.run_folder import PartStore, RunLayout
from gristmill.dags.engine.saved import fact_name
from gristmill.dags.engine.schedule import state_digest
from gristmill.dags.engine.tombstones import tombstone_problems
from gristmill.errors import BrokenRecordError, GristmillError
from gristmill.pipelines.sealed import read_sealed
from gristmill.pipelines.stage import Global, Read, Write
from gristmill.pipelines.storage import Folder


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong."""

    # In words, for a person.
    text: str
    # Records below the run's folder to remove, so that the same run makes again what is wrong.
    drop: tuple[str, ...] = ()
    # The part whose record has to go, wherever it lies: node, number.
    part: tuple[str, int] | None = None
    # The Write node whose product is wrong.
    product: str = ""
    # The Write node whose product is no longer said to be its own.
    owner: str = ""


def file_faults(layout: RunLayout) -> Iterator[Fault]:
    """Everything wrong with the files of a run that came to its end."""
    yield from run_faults(layout)
    parts = parts_done(layout)
    if parts is None:
        broken = next(one for one in layout.lists if parts_done(one) is None)
        name = f"{broken.last_folder(layout.dag.source)}/{PARTS}"
        yield Fault(f"{name} is missing, or is not what was written", (name,))
        # It hides nothing else: as many parts as the nodes have committed.
        known = (layout.store(node).parts() for node in layout.dag.order())
        parts = 1 + max(itertools.chain([-1], *known))
    for node in layout.dag.order():
        stage = layout.dag.stage(node)
        if isinstance(stage, Read):
            for one in layout.lists:
                yield from _scan_faults(one)
        if not isinstance(stage, Write):
            yield from _part_faults(layout, node, parts)
        if isinstance(stage, (Global, Write)):
            yield from _faults_by_list(layout, node, parts)


def run_faults(layout: RunLayout) -> Iterator[Fault]:
    """What is wrong with the files that lie in the run's own folder."""
    folder = layout.folder
    identity, text = _sealed(folder, "run.json")
    if identity is None:
        yield Fault(text)
        return
    if "dag_yaml" in identity and folder.read_bytes("dag.yaml") != identity["dag_yaml"].encode():
        yield Fault("dag.yaml is not what was run: it was changed since, or another run was begun")
    added, text = _sealed(folder, ADDITIONS) if identity.get("additions") else (None, "")
    if text or (added and added["lists"] != identity["additions"]):
        yield Fault(text or f"{ADDITIONS} is not what was run: another list is being added")
    _, text = _sealed(folder, "summary.json")
    if text:
        yield Fault(text)
    if "records" in identity:
        yield from _ledger_faults(folder)
    for problem in tombstone_problems(folder):
        yield Fault(problem)


def _ledger_faults(folder: Folder) -> Iterator[Fault]:
    named, text = _sealed(folder, LEDGER)
    if named is None:
        yield Fault(text)
        return
    for file in named["files"]:
        if problem := what_is_wrong(folder.sub("ledger"), file):
            yield Fault(f"ledger/{file['name']} {problem}", (LEDGER,))


def _sealed(folder: Folder, name: str) -> tuple[dict[str, Any] | None, str]:
    """A record, or why there is none that can be believed."""
    try:
        return read_sealed(folder, name), ""
    except FileNotFoundError:
        return None, f"{name} is missing"
    except BrokenRecordError as error:
        return None, str(error)


def _scan_faults(layout: RunLayout) -> Iterator[Fault]:
    """Of the chunks that the parts of the source were cut from."""
    at = layout.last_folder(layout.dag.source)
    cut = f"{at}/{PARTS}"
    store = scans(layout)
    chunks = chunks_of_source(layout)
    for chunk in store.parts() if chunks is None else range(chunks):
        name = f"{at}/scan/{chunk:06d}.json"
        yield from _record_faults(store, chunk, f"chunk {chunk} of the source", (name, cut))


def _part_faults(layout: RunLayout, node: str, parts: int) -> Iterator[Fault]:
    barrier = isinstance(layout.dag.stage(node), Global)
    ends = [f"{one.last_folder(node)}/finished.json" for one in layout.lists if barrier]
    store = layout.store(node)
    store.records()
    for part in range(parts):
        for fault in _record_faults(store, part, f"part {part}", tuple(ends)):
            yield replace(fault, text=f"node {node!r}: {fault.text}", part=(node, part))


def _record_faults(
    store: PartStore, part: int, what: str, drop: tuple[str, ...]
) -> Iterator[Fault]:
    record = store.record(part)
    if record is None:
        yield Fault(f"{what} is not committed", drop)
        return
    for kind, file in record.files.items():
        if problem := what_is_wrong(store.folder, file):
            yield Fault(f"{kind} of {what} {problem} ({file['name']})", drop)


def _faults_by_list(layout: RunLayout, node: str, parts: int) -> Iterator[Fault]:
    """Of a node that needs all parts, as each list came; the last first."""
    # Files of the product that a later list wrote again: cards, manifests.
    again: set[str] = set()
    end: int | None = parts
    for one in reversed(layout.lists):
        # Of one whose parts are not known, that is said elsewhere.
        if end is not None:
            yield from _barrier_faults(one, node, end, again)
        with contextlib.suppress(BrokenRecordError):
            again.update(files_written(one, node))
        end = parts_done(one.before) if one.additions else None


def _barrier_faults(
    layout: RunLayout, node: str, parts: int, again: Collection[str]
) -> Iterator[Fault]:
    """What it was made of, its phases, and what they wrote, but for files of these names."""
    at = layout.last_folder(node)
    folder = layout.folder.sub(at)
    state, text = _sealed(folder, "state.json")
    if state is None or "inputs" not in state:
        yield Fault(f"node {node!r}: {text or 'state.json says nothing'}", (f"{at}/state.json",))
        return
    try:
        made_of = state_digest(layout, node, parts)
    except GristmillError:
        # What lies above it is broken, and is said there.
        made_of = state["inputs"]
    if not str(state["inputs"]).startswith(made_of):
        yield Fault(f"node {node!r} was made of other rows than lie above it now")
        return
    finished, text = _sealed(folder, "finished.json")
    if finished is None:
        yield Fault(f"node {node!r}: {text}", (f"{at}/finished.json",))
        finished = {}
    if isinstance(layout.dag.stage(node), Write):
        owner, text = _sealed(layout.folder, owner_name(node))
        if owner != {"node": layout.node_folder(node)}:
            yield Fault(text or f"{owner_name(node)} names another configuration", owner=node)
    for phase, tasks in cast(dict[str, int], finished.get("phases", {})).items():
        for task in range(tasks):
            yield from _phase_faults(layout, node, f"{PHASE}{phase}/{task:06d}.json", again)


def _phase_faults(
    layout: RunLayout, node: str, record: str, again: Collection[str]
) -> Iterator[Fault]:
    at = layout.last_folder(node)
    folder = layout.folder.sub(at)
    drop = (f"{at}/{record}", f"{at}/finished.json")
    facts, text = _sealed(folder, record)
    if facts is None:
        yield Fault(f"node {node!r}: {text}", drop)
        return
    for file in cast(list[FileRecord], facts.get("saved", [])):
        problem = what_is_wrong(folder, file)
        fact = fact_name(file["name"])
        if not problem and folder.exists(fact) and _sealed(folder, fact)[0] != file:
            problem = "has another fact beside it"
        if problem:
            yield Fault(f"node {node!r}: {file['name']} {problem}", drop)
    product = layout.folder.sub(node)
    for file in cast(list[FileRecord], facts.get("product", [])):
        if file["name"] not in again and (problem := what_is_wrong(product, file)):
            yield Fault(f"{product.url}/{file['name']} {problem}", drop, product=node)
