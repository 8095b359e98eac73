"""The page's server: on loopback alone, behind a token, read-only unless it is told otherwise.

What comes from the web (captions, URLs, reasons) leaves as JSON or Arrow and is shown as text; the
policy that goes with every answer lets the page load nothing but its own files.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import json
import os
import secrets
import shlex
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

import duckdb
import pyarrow as pa
from aiohttp import web

from gristmill.dags.engine.execute import RunOptions
from gristmill.dags.explorer.live_rules import LiveCounts, LiveRules
from gristmill.dags.explorer.row_table import RowTable, in_its_place
from gristmill.dags.reports.thumbnails import RowPictures, thumbnail
from gristmill.dags.runs.keep import KeepChanges, choose
from gristmill.dags.runs.trace import Trace, trace_sample
from gristmill.dags.session import build_and_report
from gristmill.errors import ConfigurationError, GristmillError

HOST = "127.0.0.1"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_ASSETS = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
# What a browser shows by itself, by how a file begins.
_PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}
# Parts that are read before anything is shown.
_FIRST = 4
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Explorer:
    """One run behind one page."""

    def __init__(self, out: str, *, edit: bool = False, token: str = "") -> None:
        """`edit`: the page may make the run's ledger, report and shards anew. Raises `RunError` for
        a run that is not finished, `GraphError` for one that cannot be chosen from."""
        # As the person wrote it; that may be relative to where they are.
        self.out, self.edit = out, edit
        self._url = out if "://" in out else os.path.abspath(out)
        self.token = token or secrets.token_urlsafe(18)
        # Its reader keeps the part that was read last; one change of the run at a time.
        self._looking, self._keeping = threading.Lock(), threading.Lock()
        self._open()

    def _open(self) -> None:
        """The run as it is now, as yet without rows."""
        self.table = RowTable.open(self._url)
        self.rules = LiveRules(self.table)
        self.failure = ""
        self._counts: LiveCounts | None = None
        self._pictures = RowPictures(self.table.layout)

    def load(self) -> None:
        """Fill the table and count what the rules do: of the first parts at once, so that there is
        something to look at, then of all. `failure` says why it could not."""
        try:
            for parts in (_FIRST, 0):
                self.table.load(parts)
                self._counts = self.rules.apply(self.rules.rules)
        except (GristmillError, duckdb.Error, OSError) as error:
            self.failure = f"{type(error).__name__}: {error}"

    def application(self) -> web.Application:
        """What answers."""
        app = web.Application(middlewares=[self._guard], client_max_size=2**20)
        at = f"/{self.token}"
        app.router.add_get(f"{at}/", self._page)
        app.router.add_get(f"{at}/assets/{{name}}", self._asset)
        app.router.add_get(f"{at}/api/state", self._state)
        app.router.add_post(f"{at}/api/query", self._query)
        app.router.add_post(f"{at}/api/rules", self._try_rules)
        app.router.add_post(f"{at}/api/keep", self._keep)
        app.router.add_get(f"{at}/api/trace/{{uid}}", self._trace)
        app.router.add_get(f"{at}/picture/{{part}}/{{uid}}", self._picture)
        return app

    # -- who may ask --------------------------------------------------------------------------

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Only this machine's own names, so that no page of the web can ask by way of a name that
        leads here; what goes wrong is one line."""
        name = request.host.rpartition(":")[0] or request.host
        try:
            if name not in (HOST, "localhost"):
                raise web.HTTPForbidden(text="this page is for its own machine alone")
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text or error.reason)
        except (GristmillError, duckdb.Error) as error:
            response = web.Response(status=400, text=_first_line(error))
        response.headers.update(_HEADERS)
        return response

    # -- what is asked --------------------------------------------------------------------------

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return _asset("index.html")

    async def _asset(self, request: web.Request) -> web.StreamResponse:
        return _asset(request.match_info["name"])

    async def _state(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(await asyncio.to_thread(self._said))

    def _said(self) -> dict[str, Any]:
        """What the page is about: the run, its columns and rules, and how far the table is."""
        table, dag = self.table, self.table.layout.dag
        with in_its_place(table.layout):
            facts = dag.column_facts(table.node)
        columns = [
            {
                "name": name,
                "kind": _kind(kind),
                "says": facts[name].meaning if name in facts else "",
            }
            for name, kind in table.scores.items()
        ]
        return {
            "run": self.out,
            "edit": self.edit,
            "dag": dag.name,
            "node": table.node,
            "columns": columns,
            "rules": [{"name": name, "sql": sql} for name, sql in self.rules.rules.items()],
            "missing": self.rules.missing,
            "parts": table.state.parts,
            "done": table.state.done,
            "rows": table.state.rows,
            # Rows that the counts are of.
            "applied": self._counts.shown if self._counts else 0,
            "ready": self._counts is not None,
            "failure": self.failure,
            "counts": asdict(self._counts) if self._counts else None,
        }

    async def _query(self, request: web.Request) -> web.StreamResponse:
        """SQL of the page's charts, by the protocol of Mosaic's REST connector: Arrow or JSON
        back. The database is in memory and locked: it reaches no file and no setting."""
        asked = await _json(request)
        sql, kind = asked.get("sql"), asked.get("type", "json")
        if not isinstance(sql, str) or kind not in ("arrow", "json", "exec"):
            raise ConfigurationError("a query has `sql` and a `type`: arrow, json or exec")
        data = await asyncio.to_thread(self._run, sql, kind)
        said = "application/json" if kind != "arrow" else "application/vnd.apache.arrow.stream"
        return web.Response(body=data, content_type=said)

    def _run(self, sql: str, kind: str) -> bytes:
        cursor = self.table.cursor()
        try:
            if kind == "exec":
                cursor.execute(sql)
                return b"{}"
            relation = cursor.sql(sql)
            table = relation.to_arrow_table() if relation else pa.table({})
        finally:
            cursor.close()
        if kind == "json":
            return json.dumps(table.to_pylist(), default=str).encode()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

    async def _try_rules(self, request: web.Request) -> web.StreamResponse:
        """Other rules: what each drops, and the view `shown` made of them."""
        named, missing = _rules_of(await _json(request))
        self._counts = await asyncio.to_thread(self.rules.apply, named, missing)
        return web.json_response(asdict(self._counts))

    async def _keep(self, request: web.Request) -> web.StreamResponse:
        """What `gristmill keep --shards` does, with these rules; then the page is of the run as it
        is after it."""
        if not self.edit:
            raise web.HTTPForbidden(text="this page only looks: start it with --edit")
        named, missing = _rules_of(await _json(request))
        return web.json_response(await asyncio.to_thread(self._build, named, missing))

    def _build(self, rules: Mapping[str, str], missing: str) -> dict[str, Any]:
        """Raises `RunLockedError` where another process has the run."""
        with self._keeping, in_its_place(self.table.layout):
            changes: KeepChanges = {"rules": dict(rules), "missing": missing or self.rules.missing}
            choice = choose(self._url, changes)
            flags = " ".join(f"--rule {shlex.quote(f'{k}={v}')}" for k, v in rules.items())
            command = f"gristmill keep {shlex.quote(self.out)} --shards {flags}".rstrip()
            build_and_report(choice, RunOptions(runner="local"), command=command)
            self._open()
            self.load()
            return {"kept": choice.kept, "rows": choice.rows}

    async def _trace(self, request: web.Request) -> web.StreamResponse:
        uid = request.match_info["uid"]
        traces = await asyncio.to_thread(self._traces, uid)
        return web.json_response([asdict(trace) for trace in traces], dumps=_plain_json)

    def _traces(self, uid: str) -> list[Trace]:
        with in_its_place(self.table.layout):
            return trace_sample(self._url, uid)

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        """A row's picture: small, or as it is stored with `?whole=1`; 404 if there is none."""
        part, uid = request.match_info["part"], request.match_info["uid"]
        node = request.query.get("node", "")
        if not part.isdecimal() or int(part) >= self.table.state.parts:
            raise web.HTTPNotFound(text="no such part")
        files = await asyncio.to_thread(self._files, int(part), uid, node)
        data = files[0] if files and "whole" in request.query else b""
        kind = next((one for start, one in _PICTURES.items() if data.startswith(start)), "")
        if not kind:
            # What a browser may not know, and frames of a clip, are shown small.
            data, kind = await asyncio.to_thread(thumbnail, files), "image/jpeg"
        if not data:
            raise web.HTTPNotFound(text="this row has no picture")
        return web.Response(body=data, content_type=kind)

    def _files(self, part: int, uid: str, node: str) -> list[bytes]:
        """Stored files of a row that ended at a node, or came to the end."""
        if node and node not in self.table.layout.dag.order():
            return []
        with self._looking, in_its_place(self.table.layout):
            return self._pictures.files(part, [uid], node).get(uid, ("", []))[1]


@contextlib.asynccontextmanager
async def serving(explorer: Explorer, port: int = 0) -> Any:
    """The page's address while it is served; a free port for 0. Raises `ConfigurationError` for one
    that is taken."""
    runner = web.AppRunner(explorer.application(), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(f"port {port} cannot be had: {error}; --port 0") from error
        bound = runner.addresses[0][1]
        threading.Thread(target=explorer.load, daemon=True).start()
        yield f"http://{HOST}:{bound}/{explorer.token}/"
    finally:
        await runner.cleanup()


def _asset(name: str) -> web.Response:
    """A file of the page."""
    kind = next((kind for end, kind in _ASSETS.items() if name.endswith(end)), "")
    place = importlib.resources.files("gristmill.dags.explorer") / "assets" / name
    if not kind or "/" in name or not place.is_file():
        raise web.HTTPNotFound(text="no such file")
    return web.Response(body=place.read_bytes(), content_type=kind, charset="utf-8")


async def _json(request: web.Request) -> Mapping[str, Any]:
    try:
        found = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigurationError("not a JSON object")
    return found


def _rules_of(asked: Mapping[str, Any]) -> tuple[dict[str, str], str]:
    """Name -> SQL, and what a rule without a value does."""
    rules, missing = asked.get("rules"), asked.get("missing", "")
    if not isinstance(rules, list) or not all(_is_rule(rule) for rule in rules):
        raise ConfigurationError("`rules` is a list of {name, sql}")
    named = {rule["name"]: rule["sql"] for rule in rules}
    if len(named) != len(rules):
        raise ConfigurationError("two rules of one name: each is a reason of its own")
    return named, str(missing)


def _is_rule(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str) for name in ("name", "sql"))
        and bool(value["name"].strip())
    )


def _kind(kind: pa.DataType) -> str:
    """How a column is drawn."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "flag" if pa.types.is_boolean(kind) else "category"


def _plain_json(value: object) -> str:
    """Vectors and bytes are cut short: nobody reads a thousand numbers."""

    def short(found: Any) -> Any:
        if isinstance(found, bytes):
            return f"{len(found)} bytes"
        if isinstance(found, dict):
            return {key: short(one) for key, one in found.items()}
        if isinstance(found, list) and len(found) > 16 and not isinstance(found[0], str | dict):
            return [*found[:8], f"... {len(found)} in all"]
        return [short(one) for one in found] if isinstance(found, list) else found

    return json.dumps(short(value), default=str)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(text)[:2000]
