"""Workers of a cluster ask hosts at one pace, which an actor counts and another takes up."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from aiohttp import web
from loopback import serving

from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.download.pace import PaceLost
from gristmill.pipelines.sources.source import Source

ROWS, RATE = 12, 5.0


def test_workers_of_a_cluster_together_keep_the_rate_of_one(
    ray_session: None, tmp_path: Path
) -> None:
    stamps: list[float] = []

    async def gone(request: web.Request) -> web.Response:
        stamps.append(time.monotonic())
        return web.Response(status=404)

    path = tmp_path / "urls.csv"
    with serving() as server:
        server.pages = {f"/{i}": gone for i in range(ROWS)}
        rows = "".join(f"{server.url(f'/{i}')},number {i}\n" for i in range(ROWS))
        path.write_text("url,caption\n" + rows)
        download = Download(allow_hosts=(server.host,), per_host_rate=RATE)
        nodes = {"source": Node(Source(path=str(path))), "download": Node(download, ("source",))}
        options = RunOptions(runner="ray", workers=3)
        dag = Dag("paced", nodes, part_rows=4)
        execute(dag, str(tmp_path / "run"), options, make_progress(plain=True))
    assert len(stamps) == ROWS
    assert stamps[-1] - stamps[0] >= 0.7 * (ROWS - 1) / RATE


def test_an_actor_that_dies_is_taken_up_by_another_and_hosts_wait_once(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from gristmill.dags.engine import on_ray_pace

    monkeypatch.setattr(on_ray_pace, "_AGAIN_S", 0.05)
    on_ray_pace.count_for_all()
    on_ray_pace.count_for_all()
    pace = on_ray_pace.ActorPace()
    assert pace.take("a.test", 50.0) == 0
    assert 49 < pace.take("a.test", 50.0) <= 50
    pace.pause("b.test", 40.0)
    assert 39 < pace.take("b.test", 0.0) <= 40
    ray.kill(ray.get_actor(on_ray_pace._NAME), no_restart=False)
    # Until it is gone, the old one says less than 40.
    while (wait := pace.take("b.test", 50.0)) <= 40:
        pass
    # The new one has no memory, and knows that.
    assert 40 < wait <= 50


def test_nobody_hangs_where_no_actor_answers(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gristmill.dags.engine import on_ray_pace

    monkeypatch.setattr(on_ray_pace, "_NAME", "gristmill-nobody")
    monkeypatch.setattr(on_ray_pace, "_AGAIN_S", 0.01)
    monkeypatch.setattr(on_ray_pace, "_AWAY_S", 0.05)
    with pytest.raises(PaceLost):
        on_ray_pace.ActorPace().take("a.test", 1.0)


def test_a_worker_passes_on_what_its_children_ask(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gristmill.dags.engine import on_ray_pace
    from gristmill.pipelines.download.pace import ADDRESS, pace_of_process

    on_ray_pace.count_for_all()
    monkeypatch.setattr(on_ray_pace, "_keeper", None)
    monkeypatch.setenv(ADDRESS, "")
    on_ray_pace.pass_on()
    keeper = on_ray_pace._keeper
    on_ray_pace.pass_on()
    assert keeper is not None and on_ray_pace._keeper is keeper
    assert os.environ[ADDRESS] == keeper.address
    shared = pace_of_process()
    shared.pause("d.test", 30.0)
    assert 29 < shared.take("d.test", 0.0) <= 30
    assert 29 < on_ray_pace.ActorPace().take("d.test", 0.0) <= 30
    monkeypatch.setenv(ADDRESS, "")
    pace_of_process()
    keeper.close()
