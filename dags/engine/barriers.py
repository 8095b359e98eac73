"""Whether a node that needs all parts is finished for what lies above it now, and room for it if it
is not."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence

from gristmill.dags.engine.cut_record import first_part
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.schedule import kept_digest, state_digest
from gristmill.dags.engine.tombstones import tombstones_digest
from gristmill.errors import BrokenRecordError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sealed import find_sealed, unseal, write_sealed
from gristmill.pipelines.shards.reader import FORGOTTEN
from gristmill.pipelines.stage import Global, Write
from gristmill.pipelines.storage import Folder

PHASE = "phase-"
# How the phases of a Global stage lay down what they save. What another release finished is taken
# as it is; what it had begun is begun anew, since these could not read it.
_SAVED = "4"

BarrierState = dict[str, str]
"""What a barrier node builds on now, as its `state.json` says it."""


def barrier_state(layout: RunLayout, node: str, parts: int) -> BarrierState:
    """The digest of all that lies above a node; a selection builds on what is forgotten, too, and
    what is found of a list that was added on what was kept before."""
    digest = state_digest(layout, node, parts)
    stage = layout.dag.stage(node)
    if isinstance(stage, Keep):
        digest += tombstones_digest(layout.folder)
    if isinstance(stage, Global):
        if layout.additions and not isinstance(stage, Keep):
            digest += kept_digest(layout, first_part(layout))
        return {"inputs": digest, "saved": _SAVED}
    return {"inputs": digest}


def is_finished(layout: RunLayout, node: str, state: BarrierState) -> bool:
    """Whether a barrier node is finished for exactly this state. Changes nothing."""
    folder = layout.folder.sub(layout.last_folder(node))
    if find_sealed(folder, "finished.json") is None:
        return False
    made_of = (find_sealed(folder, "state.json") or {}).get("inputs")
    return made_of == state["inputs"] and _is_own(layout, node)


def make_room(layout: RunLayout, node: str, state: BarrierState) -> None:
    """Remove what a barrier node wrote for something else; what was begun for exactly this stays,
    and what it wrote of lists before the last.

    A product (a Write node's folder) belongs to one configuration at a time: another one's is
    removed first, its manifest before all else, so that no reader takes a mixture for whole.
    """
    if _is_begun(layout, node, state):
        return
    writes = isinstance(layout.dag.stage(node), Write)
    folder = layout.folder.sub(layout.last_folder(node))
    folder.remove()
    if not layout.additions:
        layout.forget(node)
        if writes:
            product = layout.folder.sub(node)
            product.remove("manifest.json")
            product.remove()
            write_sealed(layout.folder, owner_name(node), {"node": layout.node_folder(node)})
    elif writes:
        _take_back_last_list(layout, node)
    else:
        first = first_part(layout)
        store = layout.store(node)
        store.drop([part for part in store.records() if part >= first])
    write_sealed(folder, "state.json", state)


def _take_back_last_list(layout: RunLayout, node: str) -> None:
    """Remove from a product what is of no list before the last. Where that is nothing which its
    manifest names, the product stays whole, for readers too, until the new manifest is there."""
    product = layout.folder.sub(node)
    stays = {name for earlier in layout.before.lists for name in files_written(earlier, node)}
    manifest = find_sealed(product, "manifest.json") or {"splits": {}}
    named = [shard["name"] for split in manifest["splits"].values() for shard in split["shards"]]
    if not stays.issuperset(named):
        product.remove("manifest.json")
    others = [name for name in product.walk() if name not in stays and name != FORGOTTEN]
    product.remove_files(others)


def files_written(layout: RunLayout, node: str) -> list[str]:
    """Names, below its product, of the files that a Write node wrote when the last list came."""
    folder = layout.folder.sub(layout.last_folder(node))
    records = [name for name in folder.walk() if name.startswith(PHASE)]
    return [
        file["name"]
        for data in folder.read_many(records).values()
        for file in unseal(data).get("product", [])
    ]


def reopen(layout: RunLayout, node: str) -> None:
    """Have the last phase of a Write node be done again for the last list: its manifest is of a
    product that an earlier list has changed since."""
    stage = layout.dag.stage(node)
    assert isinstance(stage, Write)
    folder = layout.folder.sub(layout.last_folder(node))
    folder.remove("finished.json")
    for phase in stage.phases()[-1:]:
        folder.remove(f"{PHASE}{phase.name}")


def finish(layout: RunLayout, node: str, parts: int) -> None:
    """Say that a barrier node is done."""
    folder = layout.folder.sub(layout.last_folder(node))
    # How many tasks there were, for whoever looks whether all are there.
    records = [name for name in folder.walk() if name.startswith(PHASE)]
    tasks = Counter(name.partition("/")[0].removeprefix(PHASE) for name in records)
    seconds = phase_seconds(folder, records)
    facts = {"parts": parts, "phases": dict(tasks), "seconds": seconds}
    write_sealed(folder, "finished.json", facts)


def phase_seconds(folder: Folder, records: Sequence[str]) -> float:
    """What the tasks of these records took together; one that cannot be read took nothing."""
    seconds = 0.0
    for data in folder.read_many(records).values():
        with contextlib.suppress(BrokenRecordError):
            seconds += float(unseal(data).get("seconds", 0.0))
    return seconds


def _is_begun(layout: RunLayout, node: str, state: BarrierState) -> bool:
    """Whether what lies in the node's folder, and its product, was made of this state."""
    folder = layout.folder.sub(layout.last_folder(node))
    return find_sealed(folder, "state.json") == state and _is_own(layout, node)


def _is_own(layout: RunLayout, node: str) -> bool:
    """Whether the product of a node, if it has one, is of its present configuration."""
    writes = isinstance(layout.dag.stage(node), Write)
    owner = {"node": layout.node_folder(node)}
    return not writes or find_sealed(layout.folder, owner_name(node)) == owner


def owner_name(node: str) -> str:
    """The file that says whose product lies in a Write node's folder."""
    return f"products/{node}.json"
