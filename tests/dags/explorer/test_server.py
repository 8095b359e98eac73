"""Who may ask the page's server, and what it answers."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from run_world import ROWS

Page = Callable[..., str]


def ask(url: str, body: object = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read(), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), dict(error.headers)


def sql(address: str, text: str) -> Any:
    status, data, _ = ask(f"{address}api/query", {"type": "json", "sql": text})
    return json.loads(data) if status == 200 else data.decode()


def ready(address: str) -> dict[str, Any]:
    for _ in range(1000):
        state: dict[str, Any] = json.loads(ask(f"{address}api/state")[1])
        if state["ready"] or state["failure"]:
            return state
    raise AssertionError("never ready")


def test_only_who_has_the_token_is_answered(page: Page, hostile: Path) -> None:
    address = page(hostile)
    root, token = address.rsplit("/", 2)[0], address.rsplit("/", 2)[1]
    assert address.startswith("http://127.0.0.1:") and len(token) >= 20
    for path in (
        "/",
        "/api/state",
        f"/{token[:-1]}x/api/state",
        "/../",
        f"/{token}/assets/../server.py",
    ):
        assert ask(root + path)[0] in (404, 403)
    # A name of the web that leads here, as a page elsewhere would ask.
    assert ask(f"{address}api/state", Host="evil.example:80")[0] == 403
    assert ask(f"{address}api/state", Host="localhost:80")[0] == 200


def test_every_answer_forbids_what_is_not_its_own(page: Page, hostile: Path) -> None:
    address = page(hostile)
    for path in ("", "api/state", "assets/page.js", "nothing", "picture/0/nobody"):
        headers = ask(address + path)[2]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy
        assert "http" not in policy and headers["X-Content-Type-Options"] == "nosniff"


def test_the_database_reaches_nothing_but_itself(page: Page, hostile: Path, tmp_path: Path) -> None:
    address = page(hostile)
    ready(address)
    (tmp_path / "a.csv").write_text("a\n1\n")
    for text in (
        f"SELECT * FROM read_csv('{tmp_path}/a.csv')", f"COPY samples TO '{tmp_path}/b.csv'",
        "SET enable_external_access = true", "INSTALL httpfs", f"ATTACH '{tmp_path}/c.db'",
        "SELECT nonsense FROM samples", "not SQL",
    ):  # fmt: skip
        assert isinstance(sql(address, text), str)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]
    assert sql(address, "SELECT count(*) AS n FROM samples") == [{"n": ROWS}]


def test_what_is_wrong_is_one_line(page: Page, hostile: Path) -> None:
    address = page(hostile)
    ready(address)
    for body in ([], {}, {"rules": "x"}, {"rules": [{"name": "", "sql": "TRUE"}]},
                 {"rules": [{"name": "a", "sql": "TRUE"}] * 2},
                 {"rules": [{"name": "a", "sql": "nonsense > 1"}]}):  # fmt: skip
        status, data, _ = ask(f"{address}api/rules", body)
        assert status == 400 and data and b"Traceback" not in data and b"\n" not in data
    assert ask(f"{address}api/trace/nobody")[0] == 400
    assert ask(f"{address}picture/99/nobody")[0] == ask(f"{address}picture/x/y")[0] == 404


def test_a_page_that_only_looks_changes_nothing(page: Page, hostile: Path) -> None:
    address = page(hostile)
    rules = {"rules": [{"name": "all", "sql": "TRUE"}]}
    assert ask(f"{address}api/keep", rules)[:2] == (
        403, b"this page only looks: start it with --edit",
    )  # fmt: skip


def test_pictures_come_small_and_whole(page: Page, hostile: Path) -> None:
    address = page(hostile)
    ready(address)
    row = sql(address, "SELECT uid, part FROM samples ORDER BY row LIMIT 1 OFFSET 5")[0]
    at = f"{address}picture/{row['part']}/{row['uid']}"
    small, whole = ask(at), ask(f"{at}?whole=1")
    assert small[0] == whole[0] == 200
    assert small[1].startswith(b"\xff\xd8\xff") and whole[2]["Content-Type"].startswith("image/")
    traces = json.loads(ask(f"{address}api/trace/{row['uid']}")[1])
    assert len(traces) == 1 and traces[0]["nodes"]["light"]["brightness"] == pytest.approx(0.5)


def test_the_page_asks_nobody_else() -> None:
    """Its files hold no address but those that name a standard, and none is large."""
    folder = resources.files("gristmill.dags.explorer") / "assets"
    files = [path for path in folder.iterdir() if path.is_file()]
    assert {"index.html", "page.css", "page.js"} <= {path.name for path in files}
    for path in files:
        assert len(path.read_bytes()) < 500_000
    text = (folder / "index.html").read_text() + (folder / "page.css").read_text()
    assert "http" not in text and "//" not in text.replace("</", "")
