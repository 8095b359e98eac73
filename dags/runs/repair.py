"""Makes a run whole again: takes back the records whose files are not right, and runs it.

What is made again comes out as it was, bytes and all, where the source answers as it did; where it
does not, that is said, and what stands on it is made anew. A record that cannot be read is written
anew from what it was made of.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.engine.additions import ADDITIONS, load_additions, write_additions
from gristmill.dags.engine.barriers import owner_name
from gristmill.dags.engine.cut_record import PARTS, parts_done
from gristmill.dags.engine.execute import RunOptions, execute_layout
from gristmill.dags.engine.lay_out import lay_out
from gristmill.dags.engine.progress import Progress
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.run_lock import run_lock
from gristmill.dags.engine.tombstones import read_tombstones, tombstone_problems, write_tombstones
from gristmill.dags.graph import Dag
from gristmill.dags.runs.clean import remove_left_overs
from gristmill.dags.runs.faults import Fault, file_faults
from gristmill.dags.runs.forget import tell_readers
from gristmill.dags.runs.plan import open_run, where_it_ran
from gristmill.dags.runs.verify import verify_run
from gristmill.errors import RunError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sealed import find_sealed, write_sealed
from gristmill.pipelines.shards.verify import verify_shards
from gristmill.pipelines.stage import Write
from gristmill.pipelines.storage import Folder

# How often a run is looked through and done again, at most.
_PASSES = 4


@dataclass
class Repaired:
    """What a repair came to."""

    # What was wrong.
    found: list[str]
    # What came out otherwise than it was.
    otherwise: list[str] = field(default_factory=list)
    # What is wrong still.
    left: list[str] = field(default_factory=list)


def repair(out: str, options: RunOptions, progress: Progress, *, dry_run: bool = False) -> Repaired:
    """Find what is wrong with a run and make it again; `dry_run` only finds it.

    Raises `RunError` for a folder of which too little is left to know what was run there.
    """
    folder = Folder(out)
    found = Repaired([] if dry_run else [*_put_back_dag(folder), *_put_back_lists(folder)])
    layout = _open(out)
    before: dict[tuple[str, int], str] = {}
    for _ in range(_PASSES):
        with where_it_ran(layout):
            with run_lock(layout.folder, lock=options.lock) as held:
                faults = list(file_faults(layout))
                faults += _product_faults(layout, {fault.product for fault in faults})
                texts = dict.fromkeys(fault.text for fault in faults)
                found.found += [text for text in texts if text not in found.found]
                if dry_run:
                    return found
                before = before or _digests(layout)
                held.check()
                _take_back(layout, faults)
            _run_again(layout, options, progress)
        found.left = verify_run(out)
        # What was broken may have hidden what is: parts.json, the parts.
        if not set(found.left) - set(found.found):
            break
    after = _digests(layout)
    found.otherwise = [
        f"part {part} of {node} came out otherwise: what it was made from does not answer as it "
        "did; what stands on it was made anew"
        for (node, part), digest in sorted(before.items())
        # A selection also follows what was forgotten since, which is no answer of a source.
        if after.get((node, part), digest) != digest
        and not isinstance(layout.dag.stage(node), Keep)
    ]
    return found


def _run_again(layout: RunLayout, options: RunOptions, progress: Progress) -> None:
    execute_layout(layout, options, progress)
    with run_lock(layout.folder, lock=options.lock):
        tell_readers(layout, parts_done(layout) or 0)
        # What was made again lies beside what was wrong.
        remove_left_overs(layout)


def _put_back_dag(folder: Folder) -> list[str]:
    """Write dag.yaml as it was run, which run.json holds too."""
    identity = find_sealed(folder, "run.json") or {}
    text = identity.get("dag_yaml")
    there = folder.read_bytes("dag.yaml") if folder.exists("dag.yaml") else b""
    if text is None or there == text.encode():
        return []
    folder.write_bytes("dag.yaml", text.encode())
    return ["dag.yaml was missing or changed; it says again what was run"]


def _put_back_lists(folder: Folder) -> list[str]:
    """Write additions.json as it was run, which run.json holds too, if it is no record."""
    lists = (find_sealed(folder, "run.json") or {}).get("additions")
    if not lists or find_sealed(folder, ADDITIONS) is not None:
        return []
    write_additions(folder, load_additions(lists))
    return [f"{ADDITIONS} was missing or changed; it says again which lists were added"]


def _open(out: str) -> RunLayout:
    """The layout of the run, also where run.json is lost: from dag.yaml and the source."""
    folder = Folder(out)
    if find_sealed(folder, "run.json") is not None:
        return open_run(out, begun=True)
    if not folder.exists("dag.yaml"):
        raise RunError(
            f"{out} holds neither run.json nor dag.yaml: what was run there is not known; run the "
            "recipe into it again, and what is right is used again"
        )
    dag = load_dag(folder.read_bytes("dag.yaml").decode(), f"{out}/dag.yaml")
    return lay_out(dag, out, _limit(folder, dag))


def _limit(folder: Folder, dag: Dag) -> int:
    """The limit that the parts of the source were cut with; 0 if nobody says."""
    for name in folder.names("nodes"):
        if name.startswith(f"{dag.source}-"):
            cut = find_sealed(folder.sub(f"nodes/{name}"), PARTS) or {}
            if "limit" in cut:
                return int(cut["limit"])
    return 0


def _product_faults(layout: RunLayout, known: Collection[str]) -> Iterator[Fault]:
    """Of products that no record of a phase describes, as those of a time before: such a one is
    written anew as a whole. `known`: nodes whose product is wrong as is known."""
    for node in layout.dag.order():
        if isinstance(layout.dag.stage(node), Write) and node not in known:
            state = f"{layout.node_folder(node)}/state.json"
            for problem in verify_shards(layout.folder.join_url(node)):
                yield Fault(problem, (state,), product=node)


def _take_back(layout: RunLayout, faults: Sequence[Fault]) -> None:
    """Remove records whose files are not right, and say again what can be said without a run."""
    folder = layout.folder
    if tombstone_problems(folder):
        write_tombstones(folder, read_tombstones(folder))
    for fault in faults:
        if fault.owner:
            write_sealed(folder, owner_name(fault.owner), {"node": layout.node_folder(fault.owner)})
    for name in dict.fromkeys(name for fault in faults for name in fault.drop):
        folder.remove(name)
    for node in layout.dag.nodes:
        parts = {fault.part[1] for fault in faults if fault.part and fault.part[0] == node}
        if parts:
            layout.store(node).drop(parts)


def _digests(layout: RunLayout) -> dict[tuple[str, int], str]:
    """(node, part) -> what the part says; also of parts whose record is lost, where what is built
    on them tells."""
    dag = layout.dag
    found: dict[tuple[str, int], str] = {}
    for node in reversed(dag.order()):
        for part, record in layout.store(node).records().items():
            for other, digest in record.inputs.items():
                if not isinstance(dag.stage(other), Keep):
                    found.setdefault((other, part), digest)
            found[node, part] = record.digest
    return found
