"""A little web with planted faults: its pages, the list of their URLs, and the truth about each
row."""

from __future__ import annotations

import functools
import json
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.dags.demos.announce import counting
from gristmill.dags.demos.web_pages import Page, make_page
from gristmill.dags.demos.web_server import CLOSED_PORT, HOST, Route, Web
from gristmill.pipelines.schema import make_uid, normalise_url

CLEAN = "clean"
# Fault -> rows for every 2,400 clean pictures.
PLANTED = {
    "dead link": 60,
    "refused connection": 5,
    "drip": 3,
    "html for image": 20,
    "empty body": 10,
    "truncated file": 30,
    "decompression bomb": 8,
    "redirect to a private address": 12,
    "redirect loop": 5,
    "robots header": 10,
    "tiny": 30,
    "blank": 30,
    "extreme aspect": 30,
    "boilerplate caption": 60,
    "wrong caption": 200,
    "exact copy": 60,
    "pixel copy": 20,
    "near copy": 120,
    "cropped copy (reported apart)": 20,
    "flipped copy (reported apart)": 20,
    "repeated row": 15,
}
# Rows that look odd and must be kept.
CONTROLS = {"redirect": 20, "busy once": 10, "broken once": 10, "second caption": 40}


class _Row(TypedDict):
    """A row of the list of URLs, with the truth about it."""

    url: str
    caption: str
    uid: str
    fault: str
    group: int


def build_web(
    folder: str, *, scenes: int = 2400, seed: int = 0, port: int, objects: int = 2
) -> Web:
    """Draw the site, its list of URLs and its truth, all of them functions of the arguments;
    scenes have at most `objects` objects."""
    pages = _pages(scenes, seed)
    os.makedirs(os.path.join(folder, "site"), exist_ok=True)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        make = functools.partial(make_page, folder, objects)
        tell = counting("pages", len(pages))
        made = []
        for one in pool.map(make, range(len(pages)), pages, chunksize=64):
            made.append(one)
            tell(len(made))
    routes: dict[str, Route] = {}
    rows: list[_Row] = []
    for i, (page, (path, route, texts)) in enumerate(zip(pages, made, strict=True)):
        if route:
            routes[path] = route
        to = CLOSED_PORT if page.fault == "refused connection" else port
        base = f"http://{HOST}:{to}"
        for text in texts:
            url = base + path
            uid = make_uid("url", normalise_url(url), text)
            group = page.of if page.of >= 0 else i
            rows.append(
                {"url": url, "caption": text, "uid": uid, "fault": page.fault, "group": group}
            )
    order = np.random.Generator(np.random.PCG64([seed, 3])).permutation(len(rows))
    rows = [rows[i] for i in order]
    rows += [{**row, "fault": "repeated row"} for row in _repeated(rows, scenes)]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table.select(["url", "caption"]), os.path.join(folder, "urls.parquet"))
    pq.write_table(table.select(["uid", "url", "fault", "group"]), _truth_path(folder))
    with open(os.path.join(folder, "routes.json"), "w", encoding="utf-8") as file:
        json.dump(routes, file)
    return Web(folder, port)


def _truth_path(folder: str) -> str:
    return os.path.join(folder, "truth.parquet")


def _repeated(rows: list[_Row], scenes: int) -> list[_Row]:
    clean = [row for row in rows if row["fault"] == CLEAN]
    return clean[: _share(PLANTED["repeated row"], scenes)]


def _share(count: int, scenes: int) -> int:
    return max(1, round(count * scenes / 2400))


def _pages(scenes: int, seed: int) -> list[Page]:
    first = 10**7 * (seed + 1)
    pages = [Page(first + i, CLEAN) for i in range(scenes)]
    copies = 0
    for fault, count in {**PLANTED, **CONTROLS}.items():
        if fault == "repeated row":
            continue
        for n in range(_share(count, scenes)):
            page = Page(first + len(pages), fault, variant=n)
            if "copy" in fault:
                # Copies of the first clean pictures, each of another one.
                page.of = copies % scenes
                page.seed = pages[page.of].seed
                copies += 1
            pages.append(page)
    return pages
