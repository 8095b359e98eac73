"""What a run does, for Prometheus: counts of the driver, read when they are asked for.

    gristmill run ... --metrics 9464        # this machine alone
    gristmill run ... --metrics :9464       # every interface: nothing secret is in it, nor a lock

Names are below; docs/grafana.json draws them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gristmill.dags.engine.progress import Progress
from gristmill.errors import ConfigurationError

# Without the endings that Prometheus gives them: `_total`, of those that only grow.
METRICS = {
    "gristmill_parts": "Parts of a node, or tasks of one of its phases.",
    "gristmill_parts_done": "Parts that are done; those that were there before are among them.",
    "gristmill_rows": "Rows that went through a node.",
    "gristmill_rows_kept": "Rows that went on from a node.",
    "gristmill_rows_dropped": "Rows that ended at a node, by reason.",
    "gristmill_bytes_written": "Bytes of the files of a node's parts.",
    "gristmill_rows_under_way": "Rows done of parts that are not done yet.",
    "gristmill_seconds_left": "Seconds that a node will still take, at its pace.",
    "gristmill_warnings": "Warnings that the run gave.",
}


class RunMetrics(Collector):
    """The counts of a run's progress; `run` is its folder."""

    def __init__(self, progress: Progress, run: str) -> None:
        self._progress, self._run = progress, run

    def collect(self) -> Iterable[Metric]:
        """Those of now."""

        def counter(name: str, *labels: str) -> CounterMetricFamily:
            return CounterMetricFamily(name, METRICS[name], labels=("run", "node", *labels))

        def gauge(name: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, METRICS[name], labels=("run", "node"))

        parts, under_way = gauge("gristmill_parts"), gauge("gristmill_rows_under_way")
        left, done = gauge("gristmill_seconds_left"), counter("gristmill_parts_done")
        rows, kept = counter("gristmill_rows"), counter("gristmill_rows_kept")
        dropped = counter("gristmill_rows_dropped", "reason")
        written = counter("gristmill_bytes_written")
        for node, state in self._progress.seen().items():
            labels = (self._run, node)
            parts.add_metric(labels, state.parts)
            done.add_metric(labels, state.done)
            rows.add_metric(labels, state.rows)
            kept.add_metric(labels, state.kept)
            written.add_metric(labels, state.bytes)
            under_way.add_metric(labels, state.rows_now - state.rows)
            if state.left_s is not None:
                left.add_metric(labels, state.left_s)
            for reason, count in sorted(state.dropped.copy().items()):
                dropped.add_metric((*labels, reason), count)
        warned = CounterMetricFamily(
            "gristmill_warnings", METRICS["gristmill_warnings"], labels=("run",)
        )
        warned.add_metric((self._run,), self._progress.warnings)
        return [parts, done, rows, kept, dropped, written, under_way, left, warned]


@contextlib.contextmanager
def serving(progress: Progress, run: str, place: str) -> Iterator[None]:
    """Answer Prometheus at `place` while the block lasts: PORT on this machine alone, HOST:PORT,
    or :PORT on every interface. Raises `ConfigurationError` for a place that cannot be had."""
    host, _, port = place.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigurationError(f"--metrics {place!r}: give a port, e.g. 9464, or HOST:PORT")
    registry = CollectorRegistry()
    registry.register(RunMetrics(progress, run))
    address = host or ("0.0.0.0" if ":" in place else "127.0.0.1")
    try:
        server, thread = start_http_server(int(port), address, registry)
    except OSError as error:
        raise ConfigurationError(
            f"--metrics {place}: {error.strerror or error}; give another port"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
