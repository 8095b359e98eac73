"""The explorer's page on many rows: seconds to the first view, milliseconds from brush to counts,
both in a real browser, and the memory of the server.

python benchmarks/explorer.py 1000000        # makes the run first, some minutes; needs chromium
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

from playwright.sync_api import Page, sync_playwright

BRUSHES = 30
# Milliseconds from the last move of the pointer to the next change of the counts.
WATCH = """() => {
  window.took = [];
  let moved = 0;
  addEventListener("pointermove", () => { moved = performance.now(); }, true);
  new MutationObserver(() => {
    if (moved) { window.took.push(performance.now() - moved); moved = 0; }
  }).observe(document.querySelector("#grid-says"), {childList: true});
}"""


def make_run(folder: str, rows: int) -> str:
    """A run of captions, their facts, and a rule."""
    from engine import Accept, Quiet, urls

    from gristmill.dags.engine.execute import RunOptions, execute
    from gristmill.dags.graph import Dag, Node
    from gristmill.pipelines.captions.caption_facts import CaptionFacts
    from gristmill.pipelines.keep import Keep
    from gristmill.pipelines.sources.source import Source

    rules = {"short": "caption_chars < quantile(caption_chars, 0.3)"}
    nodes = {
        "source": Node(Source(path=urls(folder, rows))),
        "accept": Node(Accept(), ("source",)),
        "facts": Node(CaptionFacts(), ("accept",)),
        "keep": Node(Keep(rules=rules), ("facts",)),
    }
    out = f"{folder}/run"
    execute(Dag("metadata", nodes), out, RunOptions(runner="local"), Quiet())
    return out


def brush(page: Page, times: int) -> list[float]:
    """Drag over the histogram of lengths, each time to another place."""
    page.evaluate(WATCH)
    plot = page.locator(".chart", has=page.get_by_role("heading", name="caption_words"))
    box = plot.locator("svg").bounding_box()
    assert box is not None
    height = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.3 * box["width"], height)
    page.mouse.down()
    for number in range(times):
        before = page.evaluate("() => window.took.length")
        page.mouse.move(box["x"] + (0.4 + 0.5 * number / times) * box["width"], height)
        # Bars that are not passed change nothing.
        for _ in range(100):
            page.wait_for_timeout(10)
            if page.evaluate("() => window.took.length") > before:
                break
    page.mouse.up()
    took: list[float] = page.evaluate("() => window.took")
    return took


def main() -> None:
    """Make the run, serve it, and look at it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=int)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    os.environ["PYTHONPATH"] = here + os.pathsep + os.environ.get("PYTHONPATH", "")
    with tempfile.TemporaryDirectory(prefix="bench-explorer-") as folder:
        out = make_run(folder, options.rows)
        began = time.perf_counter()
        server = subprocess.Popen(
            [sys.executable, "-m", "gristmill", "explore", out, "--no-browser"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert server.stdout is not None
        address = re.findall(r"http://\S+", server.stdout.readline())[0]
        started = time.perf_counter() - began
        with sync_playwright() as playwright:
            flags = ["--disable-gpu", *["--no-sandbox"] * (os.geteuid() == 0)]
            browser = playwright.chromium.launch(executable_path=options.chromium, args=flags)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            began = time.perf_counter()
            page.goto(address)
            page.wait_for_selector("body[data-ready]", timeout=600_000)
            first = time.perf_counter() - began
            page.wait_for_selector("body[data-whole]", timeout=600_000)
            whole = time.perf_counter() - began
            took = brush(page, BRUSHES)
            browser.close()
        with open(f"/proc/{server.pid}/status", encoding="ascii") as file:
            peak = int(re.findall(r"VmHWM:\s+(\d+)", file.read())[0]) // 1024
        server.terminate()
        server.wait()
    print(
        json.dumps(
            {
                "rows": options.rows, "server started after s": round(started, 1),
                "first view after s": round(first, 1), "all rows after s": round(whole, 1),
                "brushes": len(took),
                "brush to counts, median ms": round(statistics.median(took)),
                "server's peak MB": peak,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
