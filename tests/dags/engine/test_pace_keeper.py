"""Hosts are asked at one pace by all workers of a run: their arrivals are counted at the server."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from loopback import Loopback, serving

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.pace_keeper import PaceKeeper, is_paced, keeping
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.download.pace import (
    ADDRESS,
    LocalPace,
    PaceLost,
    SocketPace,
    pace_of_process,
)
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.storage import Folder

ROWS = 18
RATE = 10.0


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as running:
        yield running


def dag(server: Loopback, folder: Path, **fields: object) -> Dag:
    """Six parts of three rows of one host."""
    path = folder / "urls.csv"
    rows = "".join(f"{server.url(f'/{i}')},number {i}\n" for i in range(ROWS))
    path.write_text("url,caption\n" + rows)
    download = Download(allow_hosts=(server.host,), **fields)  # type: ignore[arg-type]
    nodes = {"source": Node(Source(path=str(path))), "download": Node(download, ("source",))}
    return Dag("paced", nodes, part_rows=3)


def arrivals(server: Loopback) -> list[float]:
    """When each request came; whatever is asked for is not there."""
    stamps: list[float] = []

    async def gone(request: web.Request) -> web.Response:
        stamps.append(time.monotonic())
        return web.Response(status=404)

    server.pages = {f"/{i}": gone for i in range(ROWS)}
    return stamps


def run(made: Dag, out: Path, **options: object) -> None:
    settings = RunOptions(**{"runner": "local", "workers": 3, **options})  # type: ignore[arg-type]
    execute(made, str(out), settings, make_progress(plain=True))


def refused_so(out: Path) -> set[str]:
    import pyarrow.dataset

    ledger = pyarrow.dataset.dataset(str(out / "ledger")).to_table()
    return set(ledger["reason"].to_pylist())


def test_three_workers_together_keep_the_rate_of_one(server: Loopback, tmp_path: Path) -> None:
    stamps = arrivals(server)
    run(dag(server, tmp_path, per_host_rate=RATE), tmp_path / "run")
    assert len(stamps) == ROWS and refused_so(tmp_path / "run") == {"http 404"}
    # Each worker by itself would have been three times as fast; a request may come late, so there
    # is room below.
    assert stamps[-1] - stamps[0] >= 0.7 * (ROWS - 1) / RATE
    assert ADDRESS not in os.environ


def test_three_workers_together_keep_the_delay_of_a_robots_txt(
    server: Loopback, tmp_path: Path
) -> None:
    stamps = arrivals(server)
    server.pages["/robots.txt"] = b"User-agent: *\nCrawl-delay: 0.1\nDisallow: /3\n"
    run(dag(server, tmp_path, opt_out="robots"), tmp_path / "run")
    assert len(stamps) == ROWS - 1
    assert refused_so(tmp_path / "run") == {"http 404", "disallowed by robots.txt"}
    assert stamps[-1] - stamps[0] >= 0.7 * (ROWS - 2) * 0.1


def test_only_stages_with_a_pace_are_counted(server: Loopback, tmp_path: Path) -> None:
    paced = [is_paced(dag(server, tmp_path, **fields), ["source", "download"]) for fields in (
        {}, {"per_host_rate": 1.0}, {"opt_out": "robots"}, {"opt_out": "off"},
    )]  # fmt: skip
    assert paced == [False, True, True, False]


def test_all_who_ask_a_keeper_share_its_turns() -> None:
    now = 0.0
    taken: list[float] = []
    with keeping(LocalPace(lambda: now)) as address:
        assert os.environ[ADDRESS] == address
        shared = pace_of_process()
        assert isinstance(shared, SocketPace)
        askers = [SocketPace(address) for _ in range(3)]

        def ask(asker: SocketPace) -> None:
            for _ in range(20):
                if not asker.take("slow.test", 1.0):
                    taken.append(now)

        for now in (0.0, 0.5, 1.0, 1.5, 2.0):  # noqa: B007
            threads = [threading.Thread(target=ask, args=(asker,)) for asker in askers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert taken == [0.0, 1.0, 2.0]
        # A pause reaches all, also of a host that nobody counts.
        assert askers[0].take("busy.test", 0.0) == 0
        shared.pause("busy.test", 30.0)
        assert shared.take("busy.test", 0.0) == 30 and askers[1].take("busy.test", 0.0) == 30
        for asker in askers:
            asker.close()
    assert ADDRESS not in os.environ and isinstance(pace_of_process(), LocalPace)


def test_who_hears_nothing_takes_no_turn() -> None:
    class Broken(LocalPace):
        def take(self, host: str, interval_s: float) -> float:
            raise PaceLost("away")

    keeper = PaceKeeper(Broken())
    asker = SocketPace(keeper.address)
    with pytest.raises(PaceLost):
        asker.take("a.test", 1.0)
    asker.pause("a.test", 1.0)
    asker.close()
    keeper.close()
    with pytest.raises(PaceLost):
        SocketPace(keeper.address).take("a.test", 1.0)


def test_a_run_whose_pace_is_lost_sets_rows_aside_and_tries_them_again(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamps = arrivals(server)
    made, out = dag(server, tmp_path, per_host_rate=1000.0), tmp_path / "run"
    from gristmill.dags.engine import on_local

    def nobody() -> object:
        return keeping(_Away())

    with monkeypatch.context() as patch:
        patch.setattr(on_local, "keeping", nobody)
        run(made, out)
    assert refused_so(out) == {"no turn at the host"} and not stamps
    run(made, out, retry_failed=True)
    assert refused_so(out) == {"http 404"} and len(stamps) == ROWS
    assert Folder(str(out)).exists("summary.json")


class _Away(LocalPace):
    def take(self, host: str, interval_s: float) -> float:
        raise PaceLost("away")


def test_a_keeper_s_name_is_its_own() -> None:
    keepers = [PaceKeeper(LocalPace()) for _ in range(3)]
    for one, other in itertools.combinations(keepers, 2):
        assert one.address != other.address
    for keeper in keepers:
        keeper.close()
