"""The directions between rooms, and that no two modules or rooms import each other in a circle."""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Room at the top -> what it may import of ours.
ALLOWED = {
    "pipelines": {"errors", "pipelines", "__version__"},
    "catalogs": {"errors", "catalogs"},
    "dags": {"errors", "pipelines", "catalogs", "dags", "__version__"},
    "model": {"errors", "stop_signals", "pipelines", "model"},
}
# Arrows only go down: each floor may import those named before it, in functions too. What lies flat
# in dags/ belongs to the floor that is named here, else to the lowest; in model/ to the highest.
FLOORS = {
    "dags": (
        "graph", "recipes", "engine", "jobs", "runs", "reports", "session", "explorer", "demos",
    ),
    "model": (
        "distributed", "codecs", "encoders", "documents", "network", "data", "checkpoints",
        "sampling", "evaluation", "training", "pretrained", "shapes", "flat",
    ),
}  # fmt: skip
FLAT = {"session": "session"}
# Neither knows of the other.
NEIGHBOURS = ({"recipes", "engine"}, {"codecs", "encoders"}, {"network", "data"})


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of ours by its import name."""
    found = {}
    for room in (*ALLOWED, "gristmill"):
        for file in (root / room).rglob("*.py"):
            parts = file.relative_to(root).with_suffix("").parts
            prefix = () if room == "gristmill" else ("gristmill",)
            if parts[:2] in {("gristmill", top) for top in ALLOWED}:
                continue  # through a link
            found[".".join((*prefix, *parts)).removesuffix(".__init__")] = file
    return found


def imports(path: Path, known: Collection[str], *, lazy: bool) -> set[str]:
    """Modules of `known` that a file imports when it is loaded; with `lazy`, in functions too.

    What is imported for types alone is no arrow.
    """
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not lazy:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & set(known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found |= {whole if whole in known else node.module} & set(known)
        waiting += ast.iter_child_nodes(node)
    return found


@functools.cache
def graph(*, lazy: bool, root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports."""
    known = modules(root)
    return {name: imports(file, known, lazy=lazy) - {name} for name, file in known.items()}


def circles(arrows: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Strongly connected components of two or more (Tarjan, SIAM J. Comput. 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in arrows.get(name, ()):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            at = stack.index(name)
            component = sorted(stack[at:])
            del stack[at:]
            if len(component) > 1:
                found.append(component)

    for name in arrows:
        if name not in number:
            visit(name)
    return found


def room_of(module: str) -> str:
    """pipelines.download of gristmill.pipelines.download.images; flat files are a room together."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if len(parts) > 2 else f"{parts[0] if parts else ''}."


def between(arrows: Mapping[str, Iterable[str]], top: str) -> dict[str, set[str]]:
    """Room below `top` -> rooms below it that its modules import."""
    rooms: dict[str, set[str]] = {}
    for module, others in arrows.items():
        here = room_of(module)
        if here.startswith(f"{top}."):
            there = {room_of(other) for other in others if room_of(other).startswith(f"{top}.")}
            rooms.setdefault(here, set()).update(there - {here})
    return rooms


def floor(module: str) -> str:
    """The floor of dags/ or of model/ on which a module lies."""
    parts = module.split(".")[1:]
    floors = FLOORS[parts[0]]
    name = parts[1] if len(parts) > 1 else ""
    if parts[0] == "model":
        return name if name in floors else "flat"
    return FLAT.get(name, name if name in floors else floors[0])


def arrows_up(arrows: Mapping[str, Iterable[str]], top: str) -> list[str]:
    """Imports within a room at the top that go up, one line each."""
    found = []
    for module, others in arrows.items():
        for other in others:
            if all(f"{one}.".startswith(f"gristmill.{top}.") for one in (module, other)):
                here, there = floor(module), floor(other)
                height = FLOORS[top].index
                if height(there) > height(here) or {here, there} in NEIGHBOURS:
                    found.append(f"{module} imports {other}")
    return found


def test_rooms_import_what_lies_below_them() -> None:
    everything, loaded = graph(lazy=True), graph(lazy=False)
    for module, others in everything.items():
        top = module.split(".")[1] if "." in module else ""
        for other in others if top in ALLOWED else ():
            aim = other.split(".")[1] if "." in other else "__version__"
            later = top == "dags" and aim == "model" and other not in loaded[module]
            assert aim in ALLOWED[top] or later, f"{module} imports {other}"


@pytest.mark.parametrize("top", FLOORS)
def test_arrows_within_a_room_only_go_down(top: str) -> None:
    assert arrows_up(graph(lazy=True), top) == []


def test_no_two_modules_import_each_other() -> None:
    assert circles(graph(lazy=False)) == []


@pytest.mark.parametrize("top", ["pipelines", "model"])
def test_no_circle_between_rooms_not_even_in_functions(top: str) -> None:
    assert circles(between(graph(lazy=True), top)) == []


def test_the_world_of_shapes_is_a_leaf() -> None:
    inside = "gristmill.model.shapes"
    users = [
        module
        for module, others in graph(lazy=True).items()
        if module.startswith("gristmill.model") and not module.startswith(inside)
        if any(other.startswith(inside) for other in others)
    ]
    assert users == []


def test_only_the_ray_runner_imports_ray() -> None:
    importing = {
        name
        for name, file in modules().items()
        if any(
            (
                isinstance(node, ast.Import)
                and any(a.name.split(".")[0] == "ray" for a in node.names)
            )
            or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ray")
            for node in ast.walk(ast.parse(file.read_text()))
        )
    }
    # The runner with its neighbours, and the Jobs API.
    assert importing == {
        "gristmill.dags.engine.on_ray",
        "gristmill.dags.engine.on_ray_pace",
        "gristmill.dags.engine.on_ray_rows",
        "gristmill.dags.engine.on_ray_train",
        "gristmill.dags.jobs.ray_jobs",
    }


def test_a_circle_and_an_arrow_up_are_seen(tmp_path: Path) -> None:
    files = {
        "pipelines/a/one.py": "from gristmill.pipelines.b import two\n",
        "pipelines/b/two.py": "def f():\n    from gristmill.pipelines.a.one import x\n",
        "dags/engine/low.py": "def f():\n    from gristmill.dags.runs.high import x\n",
        "dags/runs/high.py": "import gristmill.dags.engine.low\n",
        "model/this.py": "from gristmill.model.that import y\n",
        "model/that.py": "from gristmill.model.this import x\n",
        "model/data/row.py": "from gristmill.model.network.blocks import Block\n",
        "model/network/blocks.py": "def f():\n    import gristmill.model.training.train\n",
        "model/training/train.py": "import gristmill.model.data.row\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    loaded, everything = graph(lazy=False, root=tmp_path), graph(lazy=True, root=tmp_path)
    assert circles(loaded) == [["gristmill.model.that", "gristmill.model.this"]]
    assert circles(between(loaded, "pipelines")) == []
    assert circles(between(everything, "pipelines")) == [["pipelines.a", "pipelines.b"]]
    assert arrows_up(everything, "dags") == [
        "gristmill.dags.engine.low imports gristmill.dags.runs.high"
    ]
    assert sorted(arrows_up(everything, "model")) == [
        "gristmill.model.data.row imports gristmill.model.network.blocks",
        "gristmill.model.network.blocks imports gristmill.model.training.train",
    ]
