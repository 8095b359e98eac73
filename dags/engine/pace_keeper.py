"""One pace of hosts for all workers of a machine: a Unix socket that stages' children ask.

Who counts is behind it: this process itself (`LocalPace`), or on a cluster an actor that the
keepers of all machines ask (`on_ray_pace.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import socketserver
import threading
from collections.abc import Iterable, Iterator

from gristmill.dags.graph import Dag
from gristmill.pipelines.download.pace import ADDRESS, LocalPace, Pace, Paced
from gristmill.pipelines.fork_server import uid_of


def is_paced(dag: Dag, nodes: Iterable[str]) -> bool:
    """Whether some of these nodes ask hosts at a pace that all workers share."""
    stages = [dag.stage(node) for node in nodes]
    return any(isinstance(stage, Paced) and stage.is_paced() for stage in stages)


class PaceKeeper:
    """Answers all who ask at `address`, from threads of its own, until it is closed."""

    def __init__(self, pace: Pace) -> None:
        # An abstract name: nothing is left behind, whatever ends this process.
        self.address = f"gristmill-pace-{secrets.token_hex(16)}"
        self._server = _Server(f"\0{self.address}", _Answer)
        self._server.pace = pace
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 1024
    pace: Pace

    def verify_request(self, request: object, client_address: object) -> bool:
        """Such an address is open to everybody on the machine."""
        return isinstance(request, socket.socket) and uid_of(request) == os.getuid()


class _Answer(socketserver.StreamRequestHandler):
    """One who asks, line by line."""

    server: _Server

    def handle(self) -> None:
        # Whoever is not answered hears that the line is closed, and does not ask the host.
        # So are those who say what no client of ours does; faults of our own are not hidden.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            for line in self.rfile:
                asked = json.loads(line)
                answer = 0.0
                if asked["call"] == "take":
                    answer = self.server.pace.take(asked["host"], asked["seconds"])
                else:
                    self.server.pace.pause(asked["host"], asked["seconds"])
                self.wfile.write(f"{answer!r}\n".encode())


@contextlib.contextmanager
def keeping(pace: Pace | None = None) -> Iterator[str]:
    """Within the block, stages that this process starts children for go by one pace; its
    address."""
    keeper = PaceKeeper(pace or LocalPace())
    before = os.environ.get(ADDRESS)
    os.environ[ADDRESS] = keeper.address
    try:
        yield keeper.address
    finally:
        if before is None:
            os.environ.pop(ADDRESS, None)
        else:
            os.environ[ADDRESS] = before
        keeper.close()
