"""Whether a node that needs all parts is finished for what lies above it now, and room for it if it
is not."""

from __future__ import annotations

from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.schedule import state_digest
from gristmill.dags.engine.tombstones import tombstones_digest
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.stage import Write
from gristmill.pipelines.storage import Folder

BarrierState = dict[str, str]
"""What a barrier node builds on now, as its `state.json` says it."""


def barrier_state(layout: RunLayout, node: str, parts: int) -> BarrierState:
    """The digest of all that lies above a node; a selection builds on what is forgotten, too."""
    digest = state_digest(layout, node, parts)
    if isinstance(layout.dag.stage(node), Keep):
        digest += tombstones_digest(layout.folder)
    return {"inputs": digest}


def is_finished(layout: RunLayout, node: str, state: BarrierState) -> bool:
    """Whether a barrier node is finished for exactly this state. Changes nothing."""
    folder = layout.folder.sub(layout.node_folder(node))
    return _is_begun(layout, node, state) and folder.exists("finished.json")


def make_room(layout: RunLayout, node: str, state: BarrierState) -> None:
    """Remove what a barrier node wrote for something else; what was begun for exactly this stays.

    A product (a Write node's folder) belongs to one configuration at a time: another one's is
    removed first, its manifest before all else, so that no reader takes a mixture for whole.
    """
    if _is_begun(layout, node, state):
        return
    name = layout.node_folder(node)
    folder = layout.folder.sub(name)
    folder.remove()
    if isinstance(layout.dag.stage(node), Write):
        product = layout.folder.sub(node)
        product.remove("manifest.json")
        product.remove()
        layout.folder.write_json(_owner(node), {"node": name})
    folder.write_json("state.json", state)


def finish(layout: RunLayout, node: str, parts: int) -> None:
    """Say that a barrier node is done."""
    layout.folder.sub(layout.node_folder(node)).write_json("finished.json", {"parts": parts})


def _is_begun(layout: RunLayout, node: str, state: BarrierState) -> bool:
    """Whether what lies in the node's folder, and its product, was made of this state."""
    name = layout.node_folder(node)
    if _read_json(layout.folder.sub(name), "state.json") != state:
        return False
    writes = isinstance(layout.dag.stage(node), Write)
    return not writes or _read_json(layout.folder, _owner(node)) == {"node": name}


def _owner(node: str) -> str:
    """The file that says whose product lies in a Write node's folder."""
    return f"products/{node}.json"


def _read_json(folder: Folder, name: str) -> object:
    try:
        found: object = folder.read_json(name)
    except FileNotFoundError:
        return None
    return found
