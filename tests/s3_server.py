"""An S3 server on loopback (moto), which can fail as real ones do."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

_SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
_NOT_IMPLEMENTED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NotImplemented</Code>'
    b"<Message>A header asks for what is not implemented.</Message></Error>"
)


class FaultyApp:
    """Answers every `refuse`-th request with 503, and hangs up on every `drop`-th; 0: never.
    After `down_after` it hangs up on all. Of every `lose`-th put it does what was asked, and hangs
    up. `conditions`: "kept"; "ignored", puts are done whatever their conditions say; "refused".
    Counts what it is asked, by kind, whoever asks."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self.requests = self.faults = self.refuse = self.drop = 0
        self.down_after: int | None = None
        self.puts = self.lose = 0
        self.conditions = "kept"
        # A real store looks and writes in one step; moto does in two.
        self._putting = threading.Lock()
        # Kind (list, head, get, put, delete) -> requests.
        self.kinds: Counter[str] = Counter()
        # One line a request, for whoever wants to know which.
        self.journal: list[str] | None = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        kind = request_kind(environ["REQUEST_METHOD"], environ.get("QUERY_STRING", ""))
        with self._lock:
            self.kinds[kind] += 1
            if self.journal is not None:
                place = environ["PATH_INFO"] + "?" + environ.get("QUERY_STRING", "")
                self.journal.append(f"{kind} {place} {environ.get('HTTP_RANGE', '')}".strip())
            self.requests += 1
            number = self.requests
            down = self.down_after is not None and number > self.down_after
            refuse = bool(self.refuse) and number % self.refuse == 0
            drop = down or (bool(self.drop) and number % self.drop == 0)
            self.faults += refuse or drop
        if drop:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        if refuse:
            return self._answer(environ, start_response, "503 Slow Down", _SLOW_DOWN)
        if environ["REQUEST_METHOD"] == "PUT":
            return self._put(environ, start_response)
        found: Iterable[bytes] = self._inner(environ, start_response)
        return found

    @staticmethod
    def _answer(
        environ: dict[str, Any], start_response: Any, status: str, body: bytes
    ) -> Iterable[bytes]:
        # What was sent must be read, or the connection is of no use any more.
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        length = ("Content-Length", str(len(body)))
        start_response(status, [("Content-Type", "application/xml"), length])
        return [body]

    def _put(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = {"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"} & set(environ)
        if given and self.conditions == "refused":
            return self._answer(environ, start_response, "501 Not Implemented", _NOT_IMPLEMENTED)
        if self.conditions == "ignored":
            for condition in given:
                del environ[condition]
        with self._putting:
            self.puts += 1
            lost = bool(self.lose) and self.puts % self.lose == 0
            found: Iterable[bytes] = self._inner(environ, start_response)
        if lost:
            self.faults += 1
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        return found


def request_kind(method: str, query: str) -> str:
    """What a store's bill calls a request."""
    if method == "GET":
        return "list" if "list-type=" in query or "prefix=" in query else "get"
    if method == "POST":
        return "delete" if query.startswith("delete") else "put"
    return {"HEAD": "head", "PUT": "put", "DELETE": "delete"}[method]


@contextlib.contextmanager
def s3_server(address: str = "127.0.0.1") -> Iterator[FaultyApp]:
    """A server with a bucket `bucket`; fsspec finds it through the environment, as users' would."""
    import fsspec
    from moto.moto_api._internal.models import moto_api_backend
    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    app = FaultyApp(create_backend_app("s3"))
    moto_api_backend.reset()
    server = make_server(address, 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{address}:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with mock.patch.dict(os.environ, environment):
        fs = fsspec.filesystem("s3", skip_instance_cache=True)
        fs.mkdir("bucket")
        try:
            yield app
        finally:
            server.shutdown()
            thread.join()
            fsspec.filesystem("s3").clear_instance_cache()
