"""Google's store on loopback, as much of it as a lock needs: a read, and a put on conditions."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import fsspec
import pytest


@contextlib.contextmanager
def gcs_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, tuple[int, bytes]]]:
    """Objects by bucket and name, each with its generation; fsspec finds the server by itself."""
    objects: dict[str, tuple[int, bytes]] = {}
    generations = itertools.count(1_700_000_000_000_000)
    writing = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _, _, place = urlsplit(self.path).path.partition("/storage/v1/b/")
            bucket, _, name = place.partition("/o/")
            generation, data = objects.get(f"{bucket}/{unquote(name)}", (0, b""))
            self.answer(200 if generation else 404, data, generation)

        def do_POST(self) -> None:
            split = urlsplit(self.path)
            asked = {key: values[0] for key, values in parse_qs(split.query).items()}
            bucket = split.path.removeprefix("/upload/storage/v1/b/").removesuffix("/o")
            place = f"{bucket}/{asked['name']}"
            data = self.rfile.read(int(self.headers["Content-Length"]))
            with writing:
                there = objects.get(place, (0, b""))[0]
                if there != int(asked.get("ifGenerationMatch", there)):
                    self.answer(412, b'{"error": {"message": "conditionNotMet"}}')
                    return
                objects[place] = (next(generations), data)
            generation = objects[place][0]
            self.answer(200, json.dumps({"generation": str(generation)}).encode())

        def answer(self, status: int, data: bytes, generation: int = 0) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("X-Goog-Generation", str(generation))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon", "endpoint_url": url})
    try:
        yield objects
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        fsspec.get_filesystem_class("gs").clear_instance_cache()
