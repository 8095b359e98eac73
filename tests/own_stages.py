"""A folder of a user's own with a module of stages in it, as tests write and load it."""

from __future__ import annotations

import contextlib
import importlib
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

WORDS = """
    LIMIT = 3


    def long_words(text):
        return sum(len(word) > LIMIT for word in text.split())
"""
STAGES = """
    from dataclasses import dataclass

    import pyarrow as pa

    from gristmill.pipelines.stage import Score


    @dataclass(frozen=True, kw_only=True)
    class LongWords(Score):
        def reads(self):
            return ("caption",)

        def writes(self):
            return pa.schema([pa.field("long_words", pa.int32())])

        def score(self, table, images):
            from own_words import long_words

            counts = [long_words(text) for text in table["caption"].to_pylist()]
            return pa.table([counts], schema=self.writes())
"""
OWN = ("own_words", "own_score", "own_package")


def write(folder: Path, **modules: str) -> None:
    """Modules by name, each with its text."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in modules.items():
        path = folder.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())


def write_project(folder: Path) -> None:
    """`own_score` with a Score, and `own_words`, which it imports when it is used."""
    write(folder, own_words=WORDS, own_score=STAGES)


@contextlib.contextmanager
def loaded(folder: Path, module: str) -> Iterator[ModuleType]:
    """The module, as a process that starts in `folder` would have it, and no trace afterwards."""
    _forget()
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield importlib.import_module(module)
    finally:
        sys.path.remove(str(folder))
        _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in OWN]:
        del sys.modules[name]
