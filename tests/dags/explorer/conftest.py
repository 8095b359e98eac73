"""A run whose captions mean harm, and its page on loopback."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_world import copy_home, make_home, small_dag

HOSTILE = (
    "<script>document.title = 'taken'</script> number 0",
    "<img src=x onerror=\"document.title='taken'\"> number 1",
    "javascript:document.title='taken' number 2",
    "\u202eright to left\u202e number 3",
    "'; DROP TABLE samples; -- number 4",
    f"{'long ' * 200_000} number 5",
    "</p><style>body{display:none}</style> number 6",
    '"><a href="http://192.0.2.1/">here</a> number 7',
    "&lt;b&gt; &amp; {{x}} ${1} number 8",
    "\u0000\u0007 bell\u200b number 9",
    "ordinary number 10",
    "\U0001f600 a face number 11",
)


@pytest.fixture(scope="session")
def home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: to choose leaves verdicts in a run."""
    return copy_home(home, tmp_path_factory.mktemp("explored") / "home").parent


@pytest.fixture(scope="session")
def wide(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of that with every kind of file."""
    return copy_home(wide, tmp_path_factory.mktemp("explored") / "home").parent


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run. Not to be changed."""
    home = tmp_path_factory.mktemp("hostile") / "home"
    make_home(home, small_dag(), HOSTILE)
    return home / "run"


@pytest.fixture(scope="session")
def page() -> Iterator[Callable[..., str]]:
    """The address of a run's page, served until the tests end, by a process of its own: it goes to
    where the run was started, and a process is in one place at a time. `before`: Python that the
    process runs first."""
    servers: dict[tuple[Path, bool, str], tuple[str, subprocess.Popen[str]]] = {}

    def address(run: Path, *, edit: bool = False, before: str = "") -> str:
        key = run, edit, before
        if key not in servers:
            code = f"{before}\nfrom gristmill.cli import main\nmain()\n"
            words = ["explore", str(run), "--no-browser", *["--edit"] * edit]
            server = subprocess.Popen(
                [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True
            )
            assert server.stdout is not None
            line = server.stdout.readline()
            servers[key] = re.findall(r"http://\S+", line)[0], server
        return servers[key][0]

    yield address
    for _, server in servers.values():
        server.terminate()
    for _, server in servers.values():
        try:
            # As every command of ours that is told to stop.
            ended = server.wait(60)
        finally:
            server.kill()
            server.communicate()
        assert ended == 143
