"""What was typed, as text."""

from __future__ import annotations

import shlex
import sys


def command_line() -> str:
    """The command as it was typed, for reports."""
    return shlex.join(["gristmill", *sys.argv[1:]])
