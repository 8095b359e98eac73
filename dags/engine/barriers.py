"""Whether a node that needs all parts is finished for what lies above it now."""

from __future__ import annotations

from typing import Any

from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.schedule import state_digest
from gristmill.dags.engine.tombstones import tombstones_digest
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.stage import Write
from gristmill.pipelines.storage import Folder


def claim(layout: RunLayout, node: str, parts: int) -> bool:
    """Whether a barrier node is finished for exactly what lies above it; if not, make room.

    A product (a Write node's folder) belongs to one configuration at a time: another one's is
    removed first, its manifest before all else, so that no reader takes a mixture for whole.
    """
    digest = state_digest(layout, node, parts)
    stage = layout.dag.stage(node)
    if isinstance(stage, Keep):
        digest += tombstones_digest(layout.folder)
    name = layout.node_folder(node)
    folder = layout.folder.sub(name)
    writes = isinstance(stage, Write)
    owner = f"products/{node}.json"
    state = _read_json(folder, "state.json") == {"inputs": digest}
    owned = not writes or _read_json(layout.folder, owner) == {"node": name}
    if state and owned:
        return folder.exists("finished.json")
    folder.remove()
    if writes:
        product = layout.folder.sub(node)
        product.remove("manifest.json")
        product.remove()
        layout.folder.write_json(owner, {"node": name})
    folder.write_json("state.json", {"inputs": digest})
    return False


def finish(layout: RunLayout, node: str, parts: int) -> None:
    """Say that a barrier node is done."""
    layout.folder.sub(layout.node_folder(node)).write_json("finished.json", {"parts": parts})


def _read_json(folder: Folder, name: str) -> Any:
    try:
        return folder.read_json(name)
    except FileNotFoundError:
        return None
