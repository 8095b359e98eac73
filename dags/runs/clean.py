"""Frees what no current node of a run uses."""

from __future__ import annotations

from gristmill.dags.engine.read_parts import scans
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.run_lock import run_lock
from gristmill.dags.runs.plan import open_run
from gristmill.pipelines.storage import Folder


def clean_run(out: str, *, dry_run: bool = False, lock: bool = True) -> int:
    """Remove folders of stale fingerprints, files no record names, and scratch. Returns bytes.

    Keeps everything that the run's present dag.yaml would reuse.
    """
    layout = open_run(out)
    folder = layout.folder
    with run_lock(folder, lock=lock) as held:
        current = {layout.node_folder(node) for node in layout.dag.nodes}
        freed = 0
        for name in folder.names("nodes"):
            path = f"nodes/{name}"
            if path not in current:
                held.check()
                freed += _remove(folder, path, dry_run)
        held.check()
        freed += remove_left_overs(layout, dry_run=dry_run)
        for name in folder.unfinished():
            freed += _remove(folder, name, dry_run)
        if folder.exists("scratch"):
            freed += _remove(folder, "scratch", dry_run)
    return freed


def remove_left_overs(layout: RunLayout, *, dry_run: bool = False) -> int:
    """Remove files of parts that no record names. Returns bytes."""
    freed = 0
    stores = [layout.store(node) for node in layout.dag.nodes]
    for store in [*stores, *map(scans, layout.lists)]:
        named = {
            file["name"] for record in store.records().values() for file in record.files.values()
        }
        for name in store.folder.names():
            if name[:6].isdigit() and "-" in name and name not in named:
                freed += _remove(store.folder, name, dry_run)
    return freed


def _remove(folder: Folder, name: str, dry_run: bool) -> int:
    inside = folder.walk(name)
    size = sum(folder.size(path) for path in inside) if inside else folder.size(name)
    if not dry_run:
        folder.remove(name)
    return size
