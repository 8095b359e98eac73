"""What lies in the checkout before and after the tests: they must leave it as it was."""

from __future__ import annotations

import os
from pathlib import Path

# Caches, which programs keep beside the sources, and what a build or an installation leaves.
CACHES = {
    "__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".venv", ".hypothesis",
    ".ipynb_checkpoints",
}  # fmt: skip
CACHE_FILES = (".coverage", ".dmypy.json")

Snapshot = dict[str, tuple[int, int]]
"""File, relative to the checkout -> size and nanosecond of its last change."""


def take_snapshot(root: Path) -> Snapshot:
    """All files below `root` but caches; links are not followed."""
    found: Snapshot = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in CACHES]
        for name in names:
            if not name.startswith(CACHE_FILES):
                path = os.path.join(folder, name)
                facts = os.lstat(path)
                found[os.path.relpath(path, root)] = (facts.st_size, facts.st_mtime_ns)
    return found


def changes(before: Snapshot, after: Snapshot) -> list[str]:
    """What came, went or was written to, one line a file."""
    words = {True: "new", False: "gone"}
    lines = [f"{words[path in after]}: {path}" for path in before.keys() ^ after.keys()]
    both = before.keys() & after.keys()
    return sorted(lines + [f"changed: {path}" for path in both if before[path] != after[path]])
