"""What would run, and how far a run is."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.engine.additions import list_title, load_additions, read_additions
from gristmill.dags.engine.barriers import owner_name
from gristmill.dags.engine.cut_record import parts_done, rows_of_source
from gristmill.dags.engine.lay_out import check_source, lay_out
from gristmill.dags.engine.run_folder import RunLayout, require_run_folder
from gristmill.dags.engine.run_lock import lock_holder
from gristmill.dags.graph import Dag, stores_images
from gristmill.errors import ConfigurationError, RunError
from gristmill.pipelines.sealed import find_sealed
from gristmill.pipelines.stage import Needs, Read, Write
from gristmill.pipelines.storage import Folder

# Bytes a stored picture is taken to need before any has been stored (a JPEG of 256 pixels).
PICTURE_BYTES = 30_000


@dataclass(frozen=True)
class NodePlan:
    """One node: what is there and what is left to do."""

    node: str
    stage: str
    inputs: tuple[str, ...]
    fingerprint: str
    # Parts in all; None before the source has been read.
    parts: int | None
    done: int
    needs: Needs

    @property
    def has_work(self) -> bool:
        """Whether any of its parts is left to do."""
        return self.parts is None or self.done < self.parts


@dataclass(frozen=True)
class Plan:
    """A run before, or while, it runs."""

    title: str
    nodes: list[NodePlan]
    notes: list[str]


def make_plan(dag: Dag, out: str, limit: int = 0) -> Plan:
    """Check a Dag against its run folder, reading only the source's manifest and the headers of its
    tables. Its last lines say what would be needed."""
    require_run_folder(out)
    layout = lay_out(dag, out, limit)
    check_source(layout)
    plan = _plan_of(layout)
    return Plan(plan.title, plan.nodes, [*plan.notes, *_needed(layout, plan)])


def run_status(out: str) -> Plan:
    """How far the run in a folder is, from its dag.yaml and its commit records."""
    layout = open_run(out, begun=True)
    with where_it_ran(layout):
        plan = _plan_of(layout)
    holder = lock_holder(layout.folder)
    writing = [f"being written by {holder}"] if holder is not None else []
    return Plan(plan.title, plan.nodes, [*writing, *plan.notes])


def watch_status(out: str, every_s: float, console: Console) -> None:
    """Show how far a run is every few seconds, until nothing is left to be done: in one place of a
    terminal, elsewhere whenever it has changed. A run that nobody is writing is waited for."""
    shown: Plan | None = None
    with contextlib.ExitStack() as stack:
        live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        if live is not None:
            stack.enter_context(live)
        while True:
            plan = run_status(out)
            if live is not None:
                live.update(render_plan(plan), refresh=True)
            elif plan != shown:
                console.print(render_plan(plan))
            shown = plan
            if not any(node.has_work for node in plan.nodes):
                return
            time.sleep(every_s)


def _plan_of(layout: RunLayout) -> Plan:
    dag = layout.dag
    parts = parts_done(layout)
    nodes = [_node_plan(layout, node, parts) for node in dag.order()]
    left = sum(1 for plan in nodes if plan.has_work)
    notes = [f"{left} of {len(nodes)} nodes have work to do" if left else "nothing to do"]
    notes += dag_notes(layout)
    notes += [f"warning: {warning}" for warning in dag.warnings()]
    notes += _disk(layout, parts)
    return Plan(f"{dag.name} -> {layout.url}", nodes, notes)


def dag_notes(layout: RunLayout) -> list[str]:
    """What was left out of the Dag, and what its source wants a person to know."""
    stage = layout.dag.stage(layout.dag.source)
    names = ", ".join(list_title(one.reading) for one in layout.lists)
    lists = [f"lists, one after the other: {names}"] if layout.additions else []
    return [*layout.dag.left_out, *lists, *(stage.notes() if isinstance(stage, Read) else ())]


def _needed(layout: RunLayout, plan: Plan) -> list[str]:
    """Room for one worker of each node that has work, and the files and weights of these."""
    working = [node for node in plan.nodes if node.has_work]
    if not working:
        return []
    needs = [node.needs for node in working]
    lines = [
        f"needed: {max(need.cpus for need in needs):g} CPUs, "
        f"{max(need.gpus for need in needs):g} GPUs, "
        f"{max(need.memory_gb for need in needs):g} GiB for the largest node; "
        f"{sum(need.cpus for need in needs):g} CPUs and "
        f"{sum(need.memory_gb for need in needs):g} GiB for one worker of each"
    ]
    for node in working:
        stage = layout.dag.stage(node.node)
        try:
            weights = stage.weights()
        except ConfigurationError as error:
            raise type(error)(layout.dag.explain(node.node, error)) from error
        lines += [f"needed by {node.node}: {said}" for said in weights]
        lines += [f"needed by {node.node}: {path}" for path in stage.files()]
    return lines


def open_run(out: str, *, begun: bool = False) -> RunLayout:
    """The layout of a run that exists. Raises `RunError` if the folder holds none.

    A finished run is found by what `run.json` says, so that it can be read when its source is gone,
    or while a list is added to it; `begun`: with that list.
    """
    folder = Folder(out)
    try:
        text = folder.read_bytes("dag.yaml").decode()
    except FileNotFoundError:
        raise RunError(f"{out} holds no run (no dag.yaml); is the path right?") from None
    dag = load_dag(text, f"{out}/dag.yaml")
    identity = find_sealed(folder, "run.json")
    if identity is not None and set(identity["fingerprints"]) == set(dag.nodes):
        found, limit = identity["fingerprints"], identity["limit"]
        lists = read_additions(folder) if begun else load_additions(identity.get("additions", ()))
        return RunLayout(folder.url, dag, found, limit, lists)
    return lay_out(dag, out)


@contextlib.contextmanager
def where_it_ran(layout: RunLayout) -> Iterator[None]:
    """In the folder that a run was started in, if it is there: what relative paths of its source,
    models and codecs start from."""
    folder = layout.folder
    cwd = (find_sealed(folder, "run.json") or {}).get("cwd")
    with contextlib.chdir(cwd) if cwd and os.path.isdir(cwd) else contextlib.nullcontext():
        yield


def finished_parts(layout: RunLayout) -> int:
    """Number of parts of a run that came to its end; `RunError` otherwise."""
    require_finished(layout)
    parts = parts_done(layout)
    if parts is None:
        raise RunError(
            f"{layout.url}: what says how many parts its source has is missing or broken; "
            "gristmill repair makes it again"
        )
    return parts


def require_finished(layout: RunLayout) -> None:
    """Raise `RunError` for a run that has no summary: it did not come to its end."""
    if not layout.folder.exists("summary.json"):
        raise RunError(f"{layout.url} has not come to its end; run the same command again")


def has_work(layout: RunLayout, node: str) -> bool:
    """Whether something of a node is left to do; its source is not looked at."""
    return _node_plan(layout, node, parts_done(layout)).has_work


def _node_plan(layout: RunLayout, node: str, parts: int | None) -> NodePlan:
    stage = layout.dag.stage(node)
    store = layout.store(node)
    done = len(store.sound_parts())
    if isinstance(stage, Write) and parts is not None:
        mine = find_sealed(layout.folder, owner_name(node)) == {"node": layout.node_folder(node)}
        last = layout.folder.sub(layout.last_folder(node))
        finished = find_sealed(last, "finished.json") is not None
        whole = layout.folder.exists(f"{node}/manifest.json")
        done = parts if mine and finished and whole else 0
    return NodePlan(
        node=node,
        stage=type(stage).__name__,
        inputs=layout.dag.node(node).inputs,
        fingerprint=layout.fingerprints[node][:12],
        parts=parts,
        done=min(done, parts) if parts is not None else 0,
        needs=stage.needs(),
    )


def _disk(layout: RunLayout, parts: int | None) -> list[str]:
    """Bytes that pictures will take, twice: once stored, once in shards."""
    free = layout.folder.free_bytes()
    if parts is None:
        return []
    rows = rows_of_source(layout)
    holders = [n for n in layout.dag.order() if stores_images(layout.dag.stage(n))]
    if not holders:
        return []
    store = layout.store(holders[-1])
    records = store.records().values()
    stored = sum(int(record.files["blobs"]["size"]) for record in records)
    seen = sum(record.rows_in for record in records)
    each = stored / seen if seen else PICTURE_BYTES
    need = 2 * each * rows - stored
    text = f"{rows:,} rows; pictures will take about {max(need, 0) / 1e9:.1f} GB more"
    if free is not None:
        text += f", {free / 1e9:.1f} GB are free"
        if need > free:
            text += ": NOT ENOUGH, make room or choose a smaller size first"
    return [text]


def render_plan(plan: Plan) -> Group:
    """A table for a terminal."""
    table = Table(box=None, pad_edge=False)
    numbers = ("parts", "cpus", "gpus", "GiB")
    for name in ("node", "stage", "after", *numbers, "fingerprint"):
        # On a narrow terminal only the list of inputs is broken into lines.
        table.add_column(
            name,
            justify="right" if name in numbers else "left",
            overflow="fold",
            no_wrap=name != "after",
        )
    for node in plan.nodes:
        done = f"{node.done}/{'?' if node.parts is None else node.parts}"
        table.add_row(
            node.node,
            node.stage,
            ", ".join(node.inputs),
            done,
            f"{node.needs.cpus:g}",
            f"{node.needs.gpus:g}",
            f"{node.needs.memory_gb:g}",
            node.fingerprint[:8],
        )
    return Group(Text(plan.title, style="bold"), table, *[Text(note) for note in plan.notes])
