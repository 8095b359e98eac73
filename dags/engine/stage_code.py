"""The code that a stage of the user's own brings along: its digest, and its way to the workers.

Stages of ours carry `version`; one from outside is what its files say (`pipelines/user_code.py`).
Workers on other machines need not have these files: they travel by value with the operator.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
import re
import stat
import sys
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from gristmill.dags.graph import Dag
from gristmill.errors import RunError
from gristmill.pipelines.stage import Stage
from gristmill.pipelines.unsaved_code import is_unsaved, sources_in_memory
from gristmill.pipelines.user_code import (
    SourceFile,
    digest,
    import_named,
    is_installed,
    is_ours,
    sources,
)

# A field that names code, such as the encoder of `Tokens`.
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def code_digest(stage: Stage) -> str:
    """64 hex digits of the code from outside `gristmill` that `stage` is made of; "" without any.

    Raises `ConfigurationError` if a file was changed since this process loaded it.
    """
    texts = {source.module: source.text for source in _files(stage).values()}
    for cls in _foreign_classes(stage):
        if is_unsaved(cls):
            texts |= sources_in_memory(cls)[0]
    return digest(texts) if texts else ""


def is_of_users(stage: Stage) -> bool:
    """Whether a stage comes from outside the package."""
    return not is_ours(type(stage).__module__)


def _foreign_classes(stage: Stage) -> list[type]:
    classes = type(stage).__mro__
    return [c for c in classes if issubclass(c, Stage) and not is_ours(c.__module__)]


def _files(stage: Stage) -> dict[str, SourceFile]:
    """Module -> file, of a stage's classes and of the code that its fields name."""
    found: dict[str, SourceFile] = {}
    for cls in _foreign_classes(stage):
        found |= sources_in_memory(cls)[1] if is_unsaved(cls) else sources(cls.__module__)
    for field in dataclasses.fields(stage):
        value = getattr(stage, field.name)
        if isinstance(value, str) and _REFERENCE.fullmatch(value):
            module = value.partition(":")[0]
            if not is_ours(module):
                import_named(value)
                found |= sources(module)
    return found


@dataclass(frozen=True)
class ShippedCode:
    """Files of the user's that workers need, by folder of `sys.path`, path below it, and text."""

    files: Mapping[str, Mapping[str, bytes]]
    # Module -> digest of its text.
    modules: Mapping[str, str]

    def install(self) -> None:
        """Have this process import these files, and none that it loaded before in their place.

        Folders that hold the very same files are used as they are; else the files are written below
        the temporary folder, for this user alone.
        """
        for path in _unpacked:
            sys.path.remove(path)
        _unpacked.clear()
        for root, files in self.files.items():
            if all(_text(os.path.join(root, path)) == text for path, text in files.items()):
                if root not in sys.path:
                    sys.path.append(root)
                continue
            unpacked = os.path.join(_own_folder(), digest(dict(files))[:16])
            for path, text in files.items():
                _write(os.path.join(unpacked, path), text)
            sys.path.insert(0, unpacked)
            _unpacked.append(unpacked)
        if any(_installed.get(name, now) != now for name, now in self.modules.items()):
            for name in self.modules:
                sys.modules.pop(name, None)
        _installed.update(self.modules)
        importlib.invalidate_caches()


# What this process imports for a Dag: a worker of Ray's lives on from run to run.
_installed: dict[str, str] = {}
_unpacked: list[str] = []


def shipped_code(dag: Dag) -> ShippedCode:
    """What the workers of a Dag need beside the packages that are installed everywhere."""
    files: dict[str, dict[str, bytes]] = {}
    modules = {}
    for node in dag.nodes.values():
        for source in _files(node.stage).values():
            if not is_installed(source.root):
                files.setdefault(source.root, {})[source.path] = source.text
                modules[source.module] = hashlib.sha256(source.text).hexdigest()
    return ShippedCode(files, modules)


def _text(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return None


def _own_folder() -> str:
    """A folder below the temporary one in which nobody else can put code."""
    path = os.path.join(tempfile.gettempdir(), f"gristmill-code-{os.getuid()}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RunError(f"{path} belongs to somebody else or is open to others; remove it")
    return path


def _write(path: str, text: bytes) -> None:
    if _text(path) != text:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        whole = f"{path}.{uuid.uuid4().hex}"
        with open(whole, "wb") as file:
            file.write(text)
        os.replace(whole, path)
