"""Frees what no current node of a run uses."""

from __future__ import annotations

from gristmill.dags.engine.run_folder import run_lock
from gristmill.dags.runs.plan import open_run
from gristmill.pipelines.storage import Folder


def clean_run(out: str, *, dry_run: bool = False) -> int:
    """Remove folders of stale fingerprints, files no record names, and scratch. Returns bytes.

    Keeps everything that the run's present dag.yaml would reuse.
    """
    layout = open_run(out)
    folder = layout.folder
    with run_lock(folder):
        current = {layout.node_folder(node): node for node in layout.dag.nodes}
        freed = 0
        for name in folder.names("nodes"):
            path = f"nodes/{name}"
            if path not in current:
                freed += _remove(folder, path, dry_run)
        for path, node in current.items():
            store = layout.store(node)
            named = {
                str(file["name"])
                for part in store.parts()
                if (record := store.record(part))
                for file in record.files.values()
            }
            for name in store.folder.names():
                if name[:6].isdigit() and "-" in name and name not in named:
                    freed += _remove(folder, f"{path}/{name}", dry_run)
        for name in folder.unfinished():
            freed += _remove(folder, name, dry_run)
        if folder.exists("scratch"):
            freed += _remove(folder, "scratch", dry_run)
    return freed


def _remove(folder: Folder, name: str, dry_run: bool) -> int:
    inside = folder.walk(name)
    size = sum(folder.size(path) for path in inside) if inside else folder.size(name)
    if not dry_run:
        folder.remove(name)
    return size
