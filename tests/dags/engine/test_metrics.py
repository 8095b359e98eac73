"""Prometheus is told what a run does, in names that the dashboard asks for."""

from __future__ import annotations

import http
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gristmill.dags.engine.metrics import METRICS, serving
from gristmill.dags.engine.progress import Progress
from gristmill.errors import ConfigurationError

DASHBOARD = json.loads((Path(__file__).parents[3] / "docs/grafana.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


class Silent(Progress):
    """Shows nothing."""

    def _show(self, line: str, state: object = None) -> None:
        return None


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def halfway(port: int) -> Iterator[Progress]:
    """A run of two nodes, one of them half done."""
    progress = Silent()
    progress.start("download", 4, 40)
    progress.start("keep", 4, 40)
    dropped = {"HTTP 404": 2, 'with "quotes"': 1}
    progress.advance("download", rows=10, kept=7, dropped=dropped, size=5_000, part=0)
    progress.advance("download", rows=10, kept=9, dropped={"HTTP 404": 1}, size=6_000, part=1)
    progress.within("download", 2, 4, 10)
    progress.warn("look")
    with serving(progress, "runs/mine", str(port)):
        yield progress


def scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if "_created" not in name}


def test_counts_are_those_of_now_and_nobody_answers_afterwards() -> None:
    port = free_port()
    with halfway(port) as progress:
        found = scrape(port)
        of = '{node="download",run="runs/mine"}'
        assert found[f"gristmill_rows_total{of}"] == 20
        assert found[f"gristmill_rows_kept_total{of}"] == 16
        assert found[f"gristmill_bytes_written_total{of}"] == 11_000
        assert found[f"gristmill_rows_under_way{of}"] == 4
        assert found[f"gristmill_parts{of}"] == 4 and found[f"gristmill_parts_done_total{of}"] == 2
        reason = '{node="download",reason="HTTP 404",run="runs/mine"}'
        assert found[f"gristmill_rows_dropped_total{reason}"] == 3
        assert found['gristmill_warnings_total{run="runs/mine"}'] == 1
        progress.advance("keep", rows=10, kept=1, part=0)
        assert scrape(port)['gristmill_rows_total{node="keep",run="runs/mine"}'] == 10
    with pytest.raises(OSError, match="refused"):
        scrape(port)


def test_the_dashboard_asks_for_what_there_is() -> None:
    port = free_port()
    with halfway(port):
        told = {name.partition("{")[0] for name in scrape(port)}
    asked = {name for query in QUERIES for name in re.findall(r"gristmill_\w+", query)}
    assert asked <= told and {name.removesuffix("_total") for name in told} == set(METRICS)


@pytest.mark.parametrize("place", ["", "no", "host:", "70000", "-1", "0"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with pytest.raises(ConfigurationError, match=r"give a port"), serving(Silent(), "run", place):
        pass


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigurationError, match="give another port"),
            serving(Silent(), "run", str(port)),
        ):
            pass


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's prometheus is not here")
def test_a_prometheus_understands_every_query(tmp_path: Path) -> None:
    port, server = free_port(), free_port()
    job = {"job_name": "run", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    command = [
        "prometheus", f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/db", f"--web.listen-address=127.0.0.1:{server}",
    ]  # fmt: skip
    with halfway(port), subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not _ask(server, "gristmill_parts") and time.monotonic() < deadline:
                time.sleep(0.2)
            for query in QUERIES:
                query = query.replace("$run", ".*").replace("[2m]", "[10s]")
                while not (found := _ask(server, query)) and time.monotonic() < deadline:
                    time.sleep(0.2)
                assert found or "seconds_left" in query, query
        finally:
            process.kill()


def _ask(server: int, query: str) -> list[object]:
    """What a query finds; nothing while the server starts."""
    url = f"http://127.0.0.1:{server}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url) as answer:
            said = json.load(answer)
    except urllib.error.HTTPError as error:
        # A server that listens and has not read its store yet says so with 503.
        if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        return []
    except OSError:
        return []
    assert said["status"] == "success"
    found: list[object] = said["data"]["result"]
    return found
