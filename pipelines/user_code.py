"""Code from outside `gristmill` that stages are made of: found by name, read with what it imports.

What a stage's code is, is read from its files and never from what happened to be loaded: the module
of its class, and whatever that imports from the same folder, so that a plan, a run, a rerun and
another machine come to the same digest.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.machinery
import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field

from gristmill.errors import ConfigurationError

OURS = "gristmill"


@dataclass(frozen=True)
class SourceFile:
    """A module of the user's: its name, where it lies, and its text as it is on disk."""

    module: str
    # The folder of `sys.path` that holds it, and its path below.
    root: str
    path: str
    text: bytes = field(repr=False)


def import_named(reference: str) -> object:
    """What `package.module:name` stands for; the working folder is searched last.

    Raises `ConfigurationError` if there is no such module or name in it; an error inside the module
    is the module's own and passes through, with its traceback.
    """
    module, colon, attribute = reference.partition(":")
    if not colon or not attribute:
        raise ConfigurationError(f"{reference!r}: write package.module:name")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"{reference!r} cannot be imported: there is no module {error.name!r} in {here} or on "
            "PYTHONPATH; run from the folder that holds it"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"{reference!r} cannot be imported: {module} has no {name!r}")
        found = getattr(found, name)
    return found


def is_ours(module: str) -> bool:
    """Whether a module is part of this package."""
    return module.partition(".")[0] == OURS


def sources(module: str) -> dict[str, SourceFile]:
    """The file of a module and of all that it imports, directly or not, from below the same folder;
    of an installed package, from the package alone. Empty for modules of Python's or without a
    Python file."""
    loaded = sys.modules.get(module) or importlib.import_module(module)
    file = getattr(loaded, "__file__", None) or ""
    if is_ours(module) or not file.endswith(".py"):
        return {}
    root = _root(module, os.path.abspath(file))
    if _is_among(root, [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]):
        return {}
    own = module.partition(".")[0] if is_installed(root) else ""
    first = _read(module, root, os.path.relpath(os.path.abspath(file), root))
    found = {module: first}
    waiting = [*_with_parents(module), *_imported(first)]
    while waiting:
        name = waiting.pop()
        path = _locate(root, name)
        if name in found or path is None or is_ours(name):
            continue
        if not own or name.partition(".")[0] == own:
            found[name] = _read(name, root, path)
            waiting.extend(_imported(found[name]))
    return found


def digest(texts: dict[str, bytes]) -> str:
    """64 hex digits of named texts, whatever their order."""
    whole = hashlib.sha256()
    for name in sorted(texts):
        whole.update(f"{name}\0{hashlib.sha256(texts[name]).hexdigest()}\n".encode())
    return whole.hexdigest()


def is_installed(root: str) -> bool:
    """Whether a folder holds what every machine of a cluster has alike: installed packages."""
    folders = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    return _is_among(root, [*folders, *site.getsitepackages(), site.getusersitepackages()])


def _is_among(folder: str, folders: list[str]) -> bool:
    return os.path.realpath(folder) in map(os.path.realpath, folders)


def _root(module: str, file: str) -> str:
    """The folder of `sys.path` under which `file` is the module of that name."""
    steps = module.split(".")
    stem = file.removesuffix(".py").removesuffix(f"{os.sep}__init__")
    if stem.split(os.sep)[-len(steps) :] == steps:
        return os.sep.join(stem.split(os.sep)[: -len(steps)]) or os.sep
    return os.path.dirname(file)


def _locate(root: str, module: str) -> str | None:
    """Path below `root` of the module of a name, if there is one."""
    base = os.path.join(*module.split("."))
    for path in (os.path.join(base, "__init__.py"), f"{base}.py"):
        if os.path.isfile(os.path.join(root, path)):
            return path
    return None


def _imported(source: SourceFile) -> Iterator[str]:
    """Names that a module's text imports, anywhere in it, with the packages above each."""
    tree = ast.parse(source.text, source.path)
    package = source.module.split(".")
    if os.path.basename(source.path) != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}".strip(".") for alias in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
        for name in filter(None, names):
            yield from _with_parents(name)


def _with_parents(module: str) -> list[str]:
    """`a`, `a.b`, `a.b.c`: importing the last runs all of them."""
    steps = module.split(".")
    return [".".join(steps[: i + 1]) for i in range(len(steps))]


# Module -> how it was loaded, and the digest of its file when it was first asked about.
_seen: dict[str, tuple[importlib.machinery.ModuleSpec, str]] = {}


def _read(module: str, root: str, path: str) -> SourceFile:
    """A file's text; `ConfigurationError` if this process runs an older one."""
    with open(os.path.join(root, path), "rb") as file:
        text = file.read()
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is not None:
        now = hashlib.sha256(text).hexdigest()
        before = _seen.setdefault(module, (spec, now))
        if before[0] is not spec:
            _seen[module] = (spec, now)
        elif before[1] != now:
            raise ConfigurationError(
                f"{os.path.join(root, path)} was changed after this process loaded it, so the "
                "stage would not run as it stands there; start again, or importlib.reload it"
            )
    return SourceFile(module, root, path, text)
