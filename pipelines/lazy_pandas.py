"""Arrow without pandas until somebody asks for it: half of the time that a process takes to start.

At the first list it is given, Arrow imports pandas, only to see whether the list is one of its
Series. A child process gets lists of its own making; a stage of the user's may import pandas all
the same, and Arrow is told at once, so that its Series mean what they mean elsewhere (NaN is null).
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

_NAME = "pandas"


def defer_pandas() -> None:
    """Have Arrow do without pandas in this process until pandas is imported."""
    if _NAME in sys.modules:
        return
    import pyarrow as pa

    watch = _Watch()
    sys.meta_path.insert(0, watch)
    pa.array([0])
    watch.hides = False


class _Watch(importlib.abc.MetaPathFinder):
    """Hides pandas at first; then sees it come, and tells Arrow."""

    hides = True
    _looking = False

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of pandas, with a loader that tells; nothing of any other module."""
        if name != _NAME or self._looking:
            return None
        if self.hides:
            raise ModuleNotFoundError(f"{_NAME} is not looked for yet", name=_NAME)
        # Who only asks whether it is installed imports nothing: the next one who looks may.
        self._looking = True
        try:
            spec = importlib.util.find_spec(_NAME)
        finally:
            self._looking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Teller(spec.loader)
        return spec


class _Teller(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """As pandas' own loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Load pandas; asked for it by name, Arrow looks again."""
        import pyarrow.lib

        self._loader.exec_module(module)
        with contextlib.suppress(AttributeError):
            _ = pyarrow.lib._pandas_api.pd
