"""Placeholder until the helper's version lands."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *a: Any) -> None:
        return None

    def start(self, node: str, parts: int, rows: int | None) -> None:
        print("start", node, parts, file=sys.stderr)

    def advance(
        self, node: str, parts: int = 1, rows: int = 0, kept: int = 0, reused: bool = False
    ) -> None: ...
    def finish(self, node: str) -> None: ...
    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        print("warning:", text, file=sys.stderr)


def make_progress(console: Any = None, plain: bool | None = None) -> Progress:
    return Progress()
