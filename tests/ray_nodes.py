"""Nodes of a Ray cluster as an administrator starts them: `ray start`, each with an address of its
own, on loopback or in a network namespace; none knows the checkout but as its installed package."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# Ray's own object store is not what is tried.
_SMALL = ("--object-store-memory=78643200", "--disable-usage-stats", "--block")


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(true: Callable[[], object], what: str, seconds: float = 500) -> None:
    """Look ten times a second until something is so; `TimeoutError` if it never is."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)


@dataclass
class RayNodes:
    """A cluster in `folder`, which holds the home of its user with the token, logs and sockets."""

    folder: Path
    # Address of the head, and what stands before a command to run it on a node of an address.
    head: str = "127.0.0.1"
    on: Callable[[str], Sequence[str]] = lambda address: ()
    port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where jobs are sent."""
        return f"http://{self.head}:{self.http_port}"

    @property
    def env(self) -> dict[str, str]:
        """What processes of the cluster's user find around them."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("RAY_") and name != "PYTHONPATH"
        }
        path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
        home = str(self.folder / "home")
        patient = {"RAY_raylet_start_wait_time_s": "300"}
        return kept | {"HOME": home, "PATH": path} | patient | self.more

    @property
    def token(self) -> str:
        """What opens the cluster."""
        return (self.folder / "home/.ray/auth_token").read_text().strip()

    def do(self, line: str) -> None:
        """Run a command line on the head, to its end."""
        (self.folder / "home").mkdir(exist_ok=True)
        env, words = self._words(line)
        subprocess.run(words, env=env, check=True, capture_output=True, timeout=300)

    def start(self, line: str, address: str, *options: str) -> None:
        """Start a node by a line such as `RAY_AUTH_MODE=token ray start --head`; words in capitals
        and Ray's own ports stand for those of this cluster."""
        line = line.replace("HEAD:6379", f"{self.head}:{self.port}")
        env, words = self._words(line)
        if "--head" in words:
            options = (
                *options, f"--port={self.port}", f"--dashboard-port={self.http_port}",
                f"--ray-client-server-port={free_port()}",
                *([] if self.head.startswith("127.") else [f"--dashboard-host={self.head}"]),
            )  # fmt: skip
        with open(self.folder / f"{address}.log", "wb") as log:
            self.nodes[address] = subprocess.Popen(
                [
                    *self.on(address), *words, *options, *_SMALL,
                    f"--node-ip-address={address}",
                    f"--dashboard-agent-listen-port={free_port()}",
                    # Each machine has its own: the last that joins makes the job's folders anew.
                    f"--temp-dir={self.folder / address}",
                ],
                env=env, stdout=log, stderr=log, start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        if "--head" in words:
            self.wait_for(self._answers, "no head")

    def kill(self, address: str) -> None:
        """What a power cut does to a node."""
        starter = self.nodes.pop(address)
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(starter.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        starter.kill()
        starter.wait()

    def wait_for(self, true: Callable[[], object], what: str) -> None:
        """Wait until something is so, while all nodes that were started are there."""

        def seen() -> object:
            for address, node in self.nodes.items():
                log = self.folder / f"{address}.log"
                assert node.poll() is None, f"{address}: {log.read_text()[-2000:]}"
            return true()

        wait_for(seen, what)

    def _words(self, line: str) -> tuple[dict[str, str], list[str]]:
        env, words = dict(self.env), shlex.split(line, comments=True)
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            env[name] = value
        return env, words

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.url}/api/version", timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True


@contextlib.contextmanager
def ray_nodes(**options: object) -> Iterator[RayNodes]:
    """A cluster without nodes yet; all of it is gone at the end."""
    # Paths of sockets are short.
    nodes = RayNodes(Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp")), **options)  # type: ignore[arg-type]
    try:
        yield nodes
    finally:
        for address in list(nodes.nodes):
            nodes.kill(address)
        shutil.rmtree(nodes.folder, ignore_errors=True)
