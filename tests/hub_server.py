"""A hub of datasets on loopback, as far as `huggingface_hub` asks it for what we do, trees in pages
included. It can be cut, refuse and gossip.

What is asked is counted, and so is every byte that is put.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hub_double import LFS, SIGNATURE, HubDouble, Repository, Stored

_SHA = re.compile(r"[0-9a-f]{64}")


class _Refused(Exception):
    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Cut(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubDouble

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_HEAD = do_GET

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        path = urllib.parse.unquote(url.path).lstrip("/")
        kind = _kind(path)
        try:
            if self.hub.down:
                raise _Cut
            with self.hub.lock:
                self.hub.asked[f"{self.command} {kind}"] += 1
                waiting = self.hub.refuse.get(kind)
                status = waiting.pop(0) if waiting else 0
            body = self._body(path if kind in ("put", "part") else "")
            if status:
                raise _Refused(status, message="not now")
            found = getattr(self, f"_{kind}")(path, body)
            self._send(200, found)
        except _Refused as refused:
            said = refused.message
            if self.hub.gossip:
                said += f" ({self.headers.get('Authorization')} for {self.path}?{SIGNATURE})"
            headers = {"X-Error-Code": refused.code, "X-Error-Message": said, "Retry-After": "0"}
            self._send(refused.status, {"error": said}, headers)
        except _Cut:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)

    def _body(self, put: str) -> bytes:
        """What was sent; of a put, counted piece by piece, up to where the hub is cut."""
        left = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            raise _Refused(501, message="S3 takes no chunks")
        pieces: list[bytes] = []
        digest = _SHA.search(put)
        while left:
            piece = self.rfile.read(min(left, 16384))
            if not piece:
                raise _Cut
            left -= len(piece)
            pieces.append(piece)
            with self.hub.lock:
                if digest:
                    self.hub.received[digest[0]] += len(piece)
                    limit = self.hub.cut_after
                    if limit is not None and self.hub.received.total() >= limit:
                        self.hub.cut()
                if self.hub.down:
                    raise _Cut
        return b"".join(pieces)

    def _send(self, status: int, body: object, headers: Mapping[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        extra = {**getattr(self, "extra", {}), **(headers or {})}
        self.extra: dict[str, str] = {}
        if isinstance(body, bytes) and (ranged := self.headers.get("Range")) and status == 200:
            first, _, last = ranged.removeprefix("bytes=").partition("-")
            whole, start = len(data), int(first)
            data = data[start : int(last) + 1 if last else None]
            extra["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{whole}"
            status = 206
        self.send_response(status)
        for name, value in extra.items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self.wfile.write(data)

    # -- who asks, for what ---------------------------------------------------------------------

    def _user(self) -> str | None:
        said = self.headers.get("Authorization", "")
        if not said:
            return None
        user = self.hub.users.get(said.removeprefix("Bearer "))
        if user is None:
            raise _Refused(401, message="Invalid credentials in Authorization header")
        return user

    def _repository(self, name: str, *, write: bool = False, content: bool = False) -> Repository:
        user, owner = self._user(), name.partition("/")[0]
        found = self.hub.repositories.get(name)
        if found is None or (found.private and user != owner):
            raise _Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if write and user != owner:
            raise _Refused(403 if user else 401, message="You don't have the rights")
        if content and found.gated and user != owner:
            raise _Refused(403 if user else 401, "GatedRepo", "Access to dataset is restricted")
        return found

    def _branch(self, found: Repository, revision: str) -> dict[str, Stored]:
        if revision not in found.branches:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found.branches[revision]

    def _split(self, path: str, word: str) -> tuple[str, str, str]:
        """Repository, revision and rest of `api/datasets/OWNER/NAME/WORD/REVISION/REST`."""
        match = re.fullmatch(
            rf"(?:api/)?datasets/([^/]+/[^/]+)/{word}/(refs/[^/]+/[^/]+|[^/]+)/?(.*)", path
        )
        assert match is not None, path
        return match[1], match[2], match[3]

    # -- requests -------------------------------------------------------------------------------

    def _whoami(self, path: str, body: bytes) -> object:
        user = self._user()
        if user is None:
            raise _Refused(401, message="Invalid username or password.")
        return {"type": "user", "name": user, "auth": {"type": "access_token"}, "orgs": []}

    def _yaml(self, path: str, body: bytes) -> object:
        assert json.loads(body)["content"].startswith("---\n")
        return {"errors": [], "warnings": []}

    def _create(self, path: str, body: bytes) -> object:
        asked, user = json.loads(body), self._user()
        name = f"{asked['organization']}/{asked['name']}"
        assert asked["type"] == "dataset"
        if user != asked["organization"]:
            raise _Refused(403 if user else 401, message="You don't have the rights to create")
        private = asked.get("private", asked.get("visibility") == "private")
        with self.hub.lock:
            if name in self.hub.repositories:
                raise _Refused(409, message="You already created this dataset repo")
            self.hub.repositories[name] = Repository(private=private)
        return {"url": f"{self.hub.endpoint}/datasets/{name}", "name": name}

    def _info(self, path: str, body: bytes) -> object:
        words = path.split("/")
        name = "/".join(words[2:4])
        found = self._repository(name)
        if len(words) > 5:
            self._branch(found, "/".join(words[5:]))
        return {
            "id": name, "sha": "0" * 40, "private": found.private, "siblings": [],
            "gated": "auto" if found.gated else False, "tags": [], "downloads": 0, "likes": 0,
        }  # fmt: skip

    def _newbranch(self, path: str, body: bytes) -> object:
        name, revision, _ = self._split(path, "branch")
        found = self._repository(name, write=True)
        found.branches[revision] = dict(found.files)
        return {}

    def _tree(self, path: str, body: bytes) -> object:
        name, revision, under = self._split(path, "tree")
        files = self._branch(self._repository(name), revision)
        start = f"{under}/" if under else ""
        entries: dict[str, dict[str, object]] = {}
        for file, stored in files.items():
            if file.startswith(start):
                self._add_entries(entries, start, file, stored)
        if under and not entries:
            raise _Refused(404, "EntryNotFound", f"{under} does not exist on {revision}")
        ordered = [entries[key] for key in sorted(entries)]
        at = int(self.query.get("cursor", 0))
        if at + self.hub.page < len(ordered):
            query = urllib.parse.urlencode({**self.query, "cursor": at + self.hub.page})
            where = urllib.parse.urlsplit(self.path).path
            self.extra = {"Link": f'<{self.hub.endpoint}{where}?{query}>; rel="next"'}
        return ordered[at : at + self.hub.page]

    def _add_entries(
        self, entries: dict[str, dict[str, object]], start: str, file: str, stored: Stored
    ) -> None:
        """A file, and the folders that it lies in below `start`."""
        names = file[len(start) :].split("/")
        deep = self.query.get("recursive", "").lower() == "true"
        for depth in range(1, len(names)):
            folder = start + "/".join(names[:depth])
            entries[folder] = {"type": "directory", "path": folder, "oid": "1" * 40, "size": 0}
            if not deep:
                return
        entries[file] = _entry(file, stored)

    def _paths(self, path: str, body: bytes) -> object:
        name, revision, _ = self._split(path, "paths-info")
        files = self._branch(self._repository(name), revision)
        wanted = json.loads(body)["paths"]
        return [_entry(file, files[file]) for file in wanted if file in files]

    def _preupload(self, path: str, body: bytes) -> object:
        name, revision, _ = self._split(path, "preupload")
        found = self._repository(name, write=True)
        files = self._branch(found, revision)
        answers = []
        for asked in json.loads(body)["files"]:
            lfs = asked["path"].endswith(LFS) or asked["size"] > 10 * 2**20
            there = files.get(asked["path"])
            oid = None if there is None else there.sha256 if there.lfs else there.blob
            mode = "lfs" if lfs else "regular"
            facts = {"uploadMode": mode, "shouldIgnore": asked["path"].endswith(found.ignored)}
            answers.append({"path": asked["path"], "oid": oid, **facts})
        return {"files": answers}

    def _lfs(self, path: str, body: bytes) -> object:
        name = path.removeprefix("datasets/").partition(".git/")[0]
        self._repository(name, write=True)
        objects = []
        for asked in json.loads(body)["objects"]:
            oid, size = asked["oid"], asked["size"]
            answer: dict[str, object] = {"oid": oid, "size": size}
            if oid not in self.hub.objects:
                answer["actions"] = {"upload": self._upload(oid, size)}
            objects.append(answer)
        return {"objects": objects, "transfer": "basic"}

    def _upload(self, oid: str, size: int) -> dict[str, object]:
        each = self.hub.part_bytes
        if not each or size <= each:
            return {"href": f"{self.hub.endpoint}/put/{oid}?{SIGNATURE}"}
        count = math.ceil(size / each)
        urls = {
            f"{n:05d}": f"{self.hub.endpoint}/part/{oid}/{n}?{SIGNATURE}"
            for n in range(1, count + 1)
        }
        href = f"{self.hub.endpoint}/complete/{oid}?{SIGNATURE}"
        return {"href": href, "header": {"chunk_size": str(each), **urls}}

    def _put(self, path: str, body: bytes) -> bytes:
        self._keep(path.split("/")[1], body)
        return b""

    def _part(self, path: str, body: bytes) -> bytes:
        _, oid, number = path.split("/")
        with self.hub.lock:
            self.hub.parts.setdefault(oid, {})[int(number)] = body
        self.extra = {"ETag": f'"{number}"'}
        return b""

    def _complete(self, path: str, body: bytes) -> object:
        oid = path.split("/")[1]
        numbers = [part["partNumber"] for part in json.loads(body)["parts"]]
        self._keep(oid, b"".join(self.hub.parts[oid][number] for number in numbers))
        return {}

    def _keep(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            raise _Refused(400, message="The SHA256 you specified did not match")
        with self.hub.lock:
            self.hub.objects[oid] = data

    def _commit(self, path: str, body: bytes) -> object:
        name, revision, _ = self._split(path, "commit")
        found = self._repository(name, write=True)
        files = dict(self._branch(found, revision))
        added, deleted, title = [], [], ""
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "header":
                    title = value["summary"]
                case "file":
                    files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
                    added.append(value["path"])
                case "lfsFile":
                    # A pointer to what nobody sent is refused.
                    if value["oid"] not in self.hub.objects:
                        raise _Refused(400, message=f"LFS pointer to nothing: {value['path']}")
                    files[value["path"]] = Stored(self.hub.objects[value["oid"]], True)
                    added.append(value["path"])
                case "deletedFile":
                    if value["path"] not in files:
                        raise _Refused(400, message=f"no such file: {value['path']}")
                    del files[value["path"]]
                    deleted.append(value["path"])
                case other:
                    raise _Refused(400, message=f"no operation of ours: {other}")
        with self.hub.lock:
            found.branches[revision] = files
            found.commits.append(title)
            found.added.append(added)
            found.deleted.append(deleted)
            if self.hub.cut_commits is not None and len(found.commits) >= self.hub.cut_commits:
                self.hub.cut()
                raise _Cut
        where = f"{self.hub.endpoint}/datasets/{name}/commit/{len(found.commits):040x}"
        return {"commitUrl": where, "commitOid": f"{len(found.commits):040x}", "hookOutput": ""}

    def _resolve(self, path: str, body: bytes) -> object:
        name, revision, file = self._split(path, "resolve")
        files = self._branch(self._repository(name, content=True), revision)
        if file not in files:
            raise _Refused(404, "EntryNotFound", f"{file} does not exist")
        stored = files[file]
        etag = stored.sha256 if stored.lfs else stored.blob
        self.extra = {"ETag": f'"{etag}"', "X-Repo-Commit": "0" * 40, "Accept-Ranges": "bytes"}
        return stored.data


def _entry(file: str, stored: Stored) -> dict[str, object]:
    fact = {"type": "file", "path": file, "oid": stored.blob, "size": len(stored.data)}
    if stored.lfs:
        fact["lfs"] = {"oid": stored.sha256, "size": len(stored.data), "pointerSize": 130}
    return fact


_KINDS = (
    (r"api/whoami.*", "whoami"), (r"api/validate-yaml", "yaml"), (r"api/repos/create", "create"),
    (r"put/.*", "put"), (r"part/.*", "part"), (r"complete/.*", "complete"),
    (r".*\.git/info/lfs/objects/batch", "lfs"), (r"datasets/[^/]+/[^/]+/resolve/.*", "resolve"),
    (r"api/datasets/[^/]+/[^/]+/tree/.*", "tree"), (r"api/.*/preupload/.*", "preupload"),
    (r"api/.*/paths-info/.*", "paths"), (r"api/.*/commit/.*", "commit"),
    (r"api/.*/branch/.*", "newbranch"), (r"api/datasets/.*", "info"),
)  # fmt: skip


def _kind(path: str) -> str:
    return next(kind for pattern, kind in _KINDS if re.fullmatch(pattern, path))


@contextlib.contextmanager
def hub_server() -> Iterator[HubDouble]:
    """A hub for the length of the block."""
    hub = HubDouble()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
