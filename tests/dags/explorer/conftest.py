"""A run whose captions mean harm, and its page on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_world import copy_home, make_home, small_dag

from gristmill.dags.explorer.server import Explorer, serving

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
    """The address of a run's page, served until the tests end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    addresses: dict[Path, str] = {}
    over = asyncio.Event()

    async def serve(run: Path, edit: bool, said: threading.Event) -> None:
        async with serving(Explorer(str(run), edit=edit)) as address:
            addresses[run] = address
            said.set()
            await over.wait()

    def address(run: Path, *, edit: bool = False) -> str:
        if run not in addresses:
            said = threading.Event()
            asyncio.run_coroutine_threadsafe(serve(run, edit, said), loop)
            assert said.wait(30)
        return addresses[run]

    yield address
    loop.call_soon_threadsafe(over.set)
    loop.call_soon_threadsafe(loop.call_later, 0.5, loop.stop)
    thread.join(10)
