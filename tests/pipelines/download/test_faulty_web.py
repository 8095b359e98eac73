"""On a web with every fault there is we keep the rows that img2dataset keeps, but for documented
reasons."""

from __future__ import annotations

from multiprocessing.pool import ThreadPool
from pathlib import Path

import pyarrow as pa
from faulty_web import ONLY_OURS, ONLY_THEIRS, FaultyWeb
from img2dataset.downloader import download_image_with_retry
from img2dataset.resizer import Resizer

from gristmill.pipelines.download.images import Download
from gristmill.pipelines.sources.row_builder import RowBuilder, url_row

TIMEOUT_S = 1.0
LARGE = 3_000_000
PAGE = Path(__file__).parents[3] / "docs/coming-from/img2dataset.md"
DIRECTIVES = {"noai", "noimageai", "noindex", "noimageindex"}


def theirs(urls: dict[str, str]) -> dict[str, str | None]:
    """Why img2dataset has no picture, by page; None: it has one."""
    resizer = Resizer(64, "keep_ratio", True)

    def fetch(url: str) -> str | None:
        _, stream, error = download_image_with_retry(
            (0, url), TIMEOUT_S, 1, "gristmill", DIRECTIVES
        )
        return error if stream is None else resizer(stream, None)[-1]

    with ThreadPool(16) as pool:
        return dict(zip(urls, pool.map(fetch, urls.values(), chunksize=1), strict=True))


def ours(urls: dict[str, str], web: FaultyWeb) -> dict[str, str | None]:
    """The same of our stage."""
    rows = RowBuilder("list")
    for url in urls.values():
        rows.add(url_row(url))
    stage = Download(
        image_size=64,
        resize_mode="keep_ratio",
        timeout_s=TIMEOUT_S,
        retries=1,
        max_bytes=LARGE,
        allow_hosts=(f"127.0.0.1:{web.port}", "127.0.0.1:9"),
    )
    made = pa.concat_tables(stage.map(next(rows.take(all_rows=True))))
    found = {
        row["url"]: None if row["status"] == "success" else row["error"] for row in made.to_pylist()
    }
    return {name: found[url] for name, url in urls.items()}


def test_rows_are_img2dataset_s_but_for_documented_reasons(tmp_path: Path) -> None:
    with FaultyWeb(TIMEOUT_S, LARGE) as web:
        urls = web.urls(str(tmp_path))
        peer = theirs(urls)
        web.forget()
        mine = ours(urls, web)
    more = {name for name in urls if mine[name] is None and peer[name] is not None}
    less = {name for name in urls if mine[name] is not None and peer[name] is None}
    assert more == set().union(*ONLY_OURS.values())
    assert less == set().union(*ONLY_THEIRS.values())
    for reason, names in ONLY_THEIRS.items():
        assert {mine[name] for name in names} == {reason}
        assert f"`{reason}`" in PAGE.read_text(), "users are told"
