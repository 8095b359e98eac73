"""The user's own files that a job needs: the Dag's YAML or module, and the code of its stages."""

from __future__ import annotations

import os
from pathlib import Path

from gristmill.dags.engine.stage_code import shipped_code
from gristmill.dags.graph import Dag
from gristmill.errors import ConfigurationError
from gristmill.pipelines.user_code import is_installed, sources


def copy_user_files(recipe: str, dag: Dag, folder: Path) -> str:
    """Write below `folder` what `recipe` and its stages are made of, but for installed packages,
    and return the name by which a process that works there finds the recipe.

    Raises `ConfigurationError` for two files that would have to lie in one place.
    """
    files: dict[str, bytes] = {}
    for below in shipped_code(dag).files.values():
        for path, text in below.items():
            _add(files, path, text)
    name = recipe
    if recipe.endswith((".yaml", ".yml")):
        name = os.path.basename(recipe)
        with open(recipe, "rb") as file:
            _add(files, name, file.read())
    elif ":" in recipe:
        for source in sources(recipe.partition(":")[0]).values():
            if not is_installed(source.root):
                _add(files, source.path, source.text)
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text)
    return name


def _add(files: dict[str, bytes], path: str, text: bytes) -> None:
    if files.setdefault(path, text) != text:
        raise ConfigurationError(
            f"two files of the recipe are called {path}, in different folders, and a job has one "
            "folder: rename one"
        )
