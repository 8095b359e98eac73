"""The code of a class that lies in no module: typed into a notebook, a shell or a script.

Its own source, and the source of what that refers to in the same place, are taken from what Python
keeps of each cell (`linecache`); where nothing is kept, from the compiled functions.
"""

from __future__ import annotations

import ast
import dis
import linecache
import sys
import types
from collections.abc import Iterator

from gristmill.pipelines.user_code import SourceFile, is_installed, sources

_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def is_unsaved(cls: type) -> bool:
    """Whether no file that can be imported under the class's module name holds it."""
    return cls.__module__ == "__main__" or not sources(cls.__module__)


def sources_in_memory(cls: type) -> tuple[dict[str, bytes], dict[str, SourceFile]]:
    """Name -> text of a class and of the functions, classes and plain values of its namespace that
    it names; module -> file of the user's modules that those come from, but for installed ones."""
    home = cls.__module__
    world = vars(sys.modules[home]) if home in sys.modules else {}
    found: dict[str, bytes] = {}
    files: dict[str, SourceFile] = {}
    waiting: list[tuple[str, object]] = [(cls.__qualname__, cls)]
    while waiting:
        name, value = waiting.pop()
        if name in found:
            continue
        module = value.__name__ if isinstance(value, types.ModuleType) else ""
        module = module or str(getattr(value, "__module__", "") or "")
        if isinstance(value, (type, types.FunctionType)) and module == home:
            text, names = _read(value)
            found[name] = text
            waiting += [(other, world[other]) for other in sorted(names) if other in world]
            if isinstance(value, type):
                waiting += [(c.__qualname__, c) for c in value.__bases__ if c.__module__ == home]
        elif isinstance(value, (type, types.FunctionType, types.ModuleType)):
            if module in sys.modules:
                theirs = sources(module).items()
                files |= {name: one for name, one in theirs if not is_installed(one.root)}
        elif _is_plain(value):
            found[name] = repr(value).encode()
    return found, files


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(item) for pair in value.items() for item in pair)
    return isinstance(value, _PLAIN)


def _read(value: type | types.FunctionType) -> tuple[bytes, set[str]]:
    """The text of a class or function, and the names of its namespace that it uses."""
    functions = list(_functions(value))
    names = {name for function in functions for name in _globals(function.__code__)}
    for function in functions:
        code = function.__code__
        lines = linecache.getlines(code.co_filename, function.__globals__)
        node = _definition("".join(lines), value.__name__, code.co_firstlineno)
        if node is not None:
            return ast.unparse(node).encode(), names | set(_at_definition(node))
    compiled = [_outline(function.__code__) for function in functions]
    return repr(compiled).encode(), names


def _functions(value: type | types.FunctionType) -> Iterator[types.FunctionType]:
    """The functions that a person wrote in a class: not those that `dataclass` makes."""
    items = [value] if isinstance(value, types.FunctionType) else list(vars(value).values())
    for item in items:
        inner = getattr(item, "__func__", None) or getattr(item, "fget", None) or item
        if isinstance(inner, types.FunctionType) and inner.__module__ == value.__module__:
            yield inner


def _definition(
    text: str, name: str, line: int
) -> ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The definition of that name around a line of a cell."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(other.lineno for other in node.decorator_list)])
            if node.name == name and first <= line <= (node.end_lineno or line):
                return node
    return None


def _at_definition(node: ast.AST) -> Iterator[str]:
    """Names that are looked up when a definition is run, not when its functions are."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Name):
            yield child.id
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for part in (*child.decorator_list, *child.args.defaults, *child.args.kw_defaults):
                yield from _at_definition(ast.Expression(part)) if part is not None else ()
        else:
            yield from _at_definition(child)


def _globals(code: types.CodeType) -> Iterator[str]:
    """Names of the module that a function looks up, also in the functions within it."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield str(step.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _globals(inner)


def _outline(code: types.CodeType) -> tuple[object, ...]:
    """What a compiled function does, without its file and line numbers."""
    constants = [_outline(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return code.co_name, code.co_code.hex(), code.co_names, code.co_varnames, constants
