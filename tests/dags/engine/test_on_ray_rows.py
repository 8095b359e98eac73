"""Rows done travel from workers of a cluster to the driver, through an actor."""

from __future__ import annotations

import threading
from typing import Any

import pytest


def test_rows_come_from_workers_of_a_cluster(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from gristmill.dags.engine import on_ray_rows

    monkeypatch.setattr(on_ray_rows, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(on_ray_rows, "_EVERY_S", 0.01)
    heard, enough = [], threading.Event()

    def hears(*said: Any) -> None:
        heard.append(said)
        enough.set()

    with on_ray_rows.listening(hears) as teller:
        tell = ray.remote(num_cpus=0)(lambda: teller("draw", 3, 17, 115))
        while not enough.is_set():
            ray.get(tell.remote())
    assert heard[0] == ("draw", 3, 17, 115)
