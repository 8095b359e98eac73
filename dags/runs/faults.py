"""What is wrong with the files of a run, each with the record that has to go for it to be made
again.

Data files are named by records, with their size and digest: a part's commit record, a phase's
record, `ledger.json`. Records are sealed. How many there must be is said by `parts.json`,
`finished.json` and `run.json`. So whatever is cut, changed or missing is found, but in what nobody
names: logs, the report, the lock.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

from gristmill.dags.engine.barriers import PHASE, owner_name
from gristmill.dags.engine.checked import what_is_wrong
from gristmill.dags.engine.ledger_writer import LEDGER
from gristmill.dags.engine.read_parts import PARTS, chunks_of_source, parts_done, scans
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
        name = f"{layout.node_folder(layout.dag.source)}/{PARTS}"
        yield Fault(f"{name} is missing, or is not what was written", (name,))
        # It hides nothing else: as many parts as the nodes have committed.
        known = (layout.store(node).parts() for node in layout.dag.order())
        parts = 1 + max(itertools.chain([-1], *known))
    for node in layout.dag.order():
        stage = layout.dag.stage(node)
        if isinstance(stage, Read):
            yield from _scan_faults(layout)
        if not isinstance(stage, Write):
            yield from _part_faults(layout, node, parts)
        if isinstance(stage, (Global, Write)):
            yield from _barrier_faults(layout, node, parts)


def run_faults(layout: RunLayout) -> Iterator[Fault]:
    """What is wrong with the files that lie in the run's own folder."""
    folder = layout.folder
    identity, text = _sealed(folder, "run.json")
    if identity is None:
        yield Fault(text)
        return
    if "dag_yaml" in identity and folder.read_bytes("dag.yaml") != identity["dag_yaml"].encode():
        yield Fault("dag.yaml is not what was run: it was changed since, or another run was begun")
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
    cut = f"{layout.node_folder(layout.dag.source)}/{PARTS}"
    store = scans(layout)
    chunks = chunks_of_source(layout)
    for chunk in store.parts() if chunks is None else range(chunks):
        name = f"{layout.node_folder(layout.dag.source)}/scan/{chunk:06d}.json"
        yield from _record_faults(store, chunk, f"chunk {chunk} of the source", (name, cut))


def _part_faults(layout: RunLayout, node: str, parts: int) -> Iterator[Fault]:
    at = layout.node_folder(node)
    end = (f"{at}/finished.json",) if isinstance(layout.dag.stage(node), Global) else ()
    store = layout.store(node)
    store.records()
    for part in range(parts):
        for fault in _record_faults(store, part, f"part {part}", end):
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


def _barrier_faults(layout: RunLayout, node: str, parts: int) -> Iterator[Fault]:
    """Of a node that needs all parts: what it was made of, its phases, and what they wrote."""
    folder = layout.folder.sub(layout.node_folder(node))
    at = layout.node_folder(node)
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
        if owner != {"node": at}:
            yield Fault(text or f"{owner_name(node)} names another configuration", owner=node)
    for phase, tasks in cast(dict[str, int], finished.get("phases", {})).items():
        for task in range(tasks):
            yield from _phase_faults(layout, node, f"{PHASE}{phase}/{task:06d}.json")


def _phase_faults(layout: RunLayout, node: str, record: str) -> Iterator[Fault]:
    folder = layout.folder.sub(layout.node_folder(node))
    at = layout.node_folder(node)
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
        if problem := what_is_wrong(product, file):
            yield Fault(f"{product.url}/{file['name']} {problem}", drop, product=node)
