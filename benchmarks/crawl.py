"""Crawl archives: pages a second of one core, as pairs and as documents.

    python benchmarks/crawl.py [--pages 1000] [--times 5]

A little web of pages of 38 kB is written by warcio as Common Crawl writes them (a request, a
response and a metadata record each, packed record by record), with the WAT that goes with it. Each
is read as a run reads it, `Source.chunks` and `Source.read`, on one thread; the figure is of the
processor's time, the median of some times after one that is not counted. `main text` is what
`DocumentImages` makes of the documents, trafilatura's part, on --main-text of them. The last lines
count pairs, beside cc2dataset's rule.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import pyarrow as pa
from warc_files import cc2dataset_pairs, made_pages, wat_of, write_warc, write_wat

from gristmill.pipelines.documents.document_images import DocumentImages
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.source import Source


def read(source: Source) -> pa.Table:
    return pa.concat_tables(table for chunk in source.chunks() for table in source.read(chunk))


def measure(work: Callable[[], object], pages: int, times: int) -> str:
    """Pages a second of the processor: the median, and its range."""
    work()
    found = []
    for _ in range(times):
        start = time.process_time()
        work()
        found.append(pages / (time.process_time() - start))
    return f"{statistics.median(found):5.0f} pages/s ({min(found):.0f} to {max(found):.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pages", type=int, default=1_000)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--main-text", type=int, default=100, help="pages for trafilatura")
    options = parser.parse_args()
    made = made_pages(options.pages)
    answers = [answer for answer, _ in made]
    size = sum(len(answer.body) for answer in answers) / len(answers) / 1_000
    pictures = sum(len(shapes) for _, shapes in made)
    print(f"{len(made)} pages of {size:.0f} kB with {pictures / len(made):.1f} pictures each")
    with tempfile.TemporaryDirectory() as folder:
        warc = write_warc(Path(folder) / "a.warc.gz", answers, asked=True)
        wat = write_wat(Path(folder) / "a.warc.wat.gz", map(wat_of, answers))
        documents = DocumentSource(path=str(warc))
        for name, source in (
            ("WARC, pairs", Source(path=str(warc))),
            ("WAT, pairs", Source(path=str(wat))),
            ("WARC, documents", documents),
        ):
            found = measure(lambda source=source: read(source), options.pages, options.times)
            print(f"{name:16} {found}")
        some = read(documents).slice(0, options.main_text)
        found = measure(lambda: list(DocumentImages().map(some)), len(some), min(options.times, 3))
        print(f"{'main text':16} {found}")
        for name, path in (("WARC", warc), ("WAT", wat)):
            rows = read(Source(path=str(path)))
            pairs = rows["error"].null_count
            print(f"{name}: {len(rows)} rows, {pairs} of them pairs")
        print(f"cc2dataset's rule, of the WAT: {len(cc2dataset_pairs(wat))} pairs")


if __name__ == "__main__":
    main()
