"""The page in a real browser: what a person does, and what captions cannot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from run_world import KEPT, ROWS, RULES, UNKNOWN, captions, copy_home

from gristmill.dags.engine.run_lock import run_lock
from gristmill.dags.runs.keep import choose
from gristmill.dags.runs.verify import verify_run
from gristmill.pipelines.storage import Folder

pytest.importorskip("playwright", reason="the page's tests need the package playwright")
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
Address = Callable[..., str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium that talks to nobody by itself."""
    if not CHROMIUM:
        pytest.skip("the page's tests need chromium on the path (Debian: apt install chromium)")
    quiet = ["--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--disable-quic"]  # fmt: skip
    # Root has no namespaces of its own to shut it in.
    quiet += ["--no-sandbox"] * (os.geteuid() == 0)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


class Visit:
    """A page with what it asked for and complained of."""

    def __init__(self, browser: Browser, address: str, **options: Any) -> None:
        self.page: Page = browser.new_page(**options)
        self.asked: list[str] = []
        self.faults: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(dialog.message))
        self.page.goto(address)
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)

    def counts(self) -> str:
        return self.page.inner_text("#counts")

    def until(self, text: str) -> None:
        self.page.wait_for_function(
            "text => document.querySelector('#counts').textContent.includes(text)", arg=text
        )


def test_a_rule_is_edited_and_counts_are_those_of_keep(
    browser: Browser, page: Address, home: Path
) -> None:
    run = home / "run"
    visit = Visit(browser, page(run))
    kept = choose(str(run), {"rules": RULES}, lock=False).kept
    assert visit.counts() == f"{kept} of {ROWS} rows kept ({100 * kept / ROWS:.1f} %)"
    field = visit.page.get_by_label("SQL of dark", exact=True)
    field.fill("brightness < 0.45")
    field.press("Enter")
    after = choose(str(run), {"rules": {"dark": "brightness < 0.45"}}, lock=False).kept
    visit.until(f"{after} of {ROWS} rows kept")
    assert visit.counts().endswith(f"; {kept - after} rows change")
    visit.page.select_option("#fate", label="those that change")
    visit.page.wait_for_function(
        "n => document.querySelectorAll('#grid .row').length === n", arg=kept - after
    )
    # One that cannot work says why, and nothing else changes.
    field.fill("nonsense > 1")
    field.press("Enter")
    visit.page.wait_for_selector("#rule-error:not(:empty)")
    assert "nonsense" in visit.page.inner_text("#rule-error")
    assert visit.counts().startswith(f"{after} of")
    visit.page.get_by_role("button", name="Take out dark").click()
    visit.until(f"{ROWS} of {ROWS} rows kept")
    visit.page.get_by_role("button", name="As in the run").click()
    visit.until(f"{kept} of {ROWS} rows kept")
    assert visit.faults == []


WAITING = """
import os, time
from gristmill.dags.explorer import server
from gristmill.dags.explorer.row_table import RowTable
server._FIRST, adding = 1, RowTable._add
def waiting(self, part):
    while part and not os.path.exists({path!r}):
        time.sleep(0.02)
    return adding(self, part)
RowTable._add = waiting
"""


def test_what_is_there_is_shown_while_the_rest_is_read(
    browser: Browser, page: Address, home: Path, tmp_path: Path
) -> None:
    """The first part at once, and all of it in the end."""
    going_on = tmp_path / "going on"
    visit = Visit(browser, page(home / "run", before=WAITING.format(path=str(going_on))))
    visit.page.wait_for_selector("#counts:has-text('of 4 rows kept (50.0 %); reading part 2 of 3')")
    assert visit.page.locator("#grid .row").count() == 4
    going_on.touch()
    visit.page.wait_for_selector("body[data-whole]", timeout=60_000)
    kept = len(KEPT)
    assert visit.counts() == f"{kept} of {ROWS} rows kept ({100 * kept / ROWS:.1f} %)"
    assert visit.page.locator("#grid .row").count() == ROWS and visit.faults == []


def test_the_run_is_kept_by_other_rules(
    browser: Browser, page: Address, home: Path, tmp_path: Path
) -> None:
    """From a page that may; by what is shown, and with the lock of a run."""
    run = copy_home(home, tmp_path / "home")
    with run_lock(Folder(str(run))):
        visit = Visit(browser, page(run, edit=True))
        field = visit.page.get_by_label("SQL of dark", exact=True)
        field.fill("brightness < 0.45")
        field.press("Enter")
        visit.page.wait_for_selector("#counts:has-text('rows change')")
        visit.page.get_by_role("button", name="Keep these").click()
        visit.page.get_by_role("button", name="Write them").click()
        visit.page.wait_for_selector("#row-body:has-text('is being written by process')")
        assert captions(run) == KEPT
    visit.page.get_by_role("button", name="Write them").click()
    kept = {f"number {i}" for i in range(5, ROWS) if i != UNKNOWN}
    # Of the run as it is after it: no row changes any more.
    said = f"{len(kept)} of {ROWS} rows kept ({100 * len(kept) / ROWS:.1f} %)"
    visit.page.wait_for_selector(f"#counts:text-is('{said}')", timeout=60_000)
    assert captions(run) == kept and verify_run(str(run)) == [] and visit.faults == []


def test_a_brush_becomes_a_rule(browser: Browser, page: Address, home: Path) -> None:
    visit = Visit(browser, page(home / "run"))
    visit.page.select_option("#more-scores", "brightness")
    plot = visit.page.locator(".chart", has=visit.page.get_by_role("heading", name="brightness"))
    box = plot.locator("svg").bounding_box()
    assert box is not None
    left, right, middle = (box["x"] + box["width"] * x for x in (0.15, 0.55, 0.35))
    height = box["y"] + box["height"] / 2
    visit.page.mouse.move(left, height)
    visit.page.mouse.down()
    visit.page.mouse.move(middle, height)
    visit.page.mouse.move(right, height)
    visit.page.mouse.up()
    visit.page.wait_for_selector("#from-brush:enabled")
    visit.page.wait_for_function(
        "all => !document.querySelector('#grid-says').textContent.startsWith(all)",
        arg=f"{ROWS} rows",
    )
    brushed = int(visit.page.inner_text("#grid-says").split()[0])
    assert 0 < brushed < ROWS
    visit.page.get_by_role("button", name="Rule from brush").click()
    visit.page.fill("#add-rule [name=name]", "outside")
    sql = visit.page.input_value("#add-rule [name=sql]")
    visit.page.get_by_role("button", name="Add rule").click()
    rules = {**RULES, "outside": sql}
    kept = choose(str(home / "run"), {"rules": rules}, lock=False).kept
    visit.until(f"{kept} of {ROWS} rows kept")
    assert visit.faults == []


def test_captions_are_text_and_ask_nobody(browser: Browser, page: Address, hostile: Path) -> None:
    address = page(hostile)
    visit = Visit(browser, address)
    title = visit.page.title()
    assert visit.page.locator("#grid .row").count() == ROWS
    shown = visit.page.locator("#grid").inner_text()
    assert "<script>document.title = 'taken'</script>" in shown and "&lt;b&gt;" in shown
    assert visit.page.locator("#grid script, #grid a, #grid style, #grid img[src=x]").count() == 0
    for number in range(ROWS):
        visit.page.locator("#grid .row").nth(number).click()
        visit.page.wait_for_selector("#row-body table")
        visit.page.keyboard.press("Escape")
    visit.page.fill("#words", "<img src=x")
    visit.page.wait_for_function("() => document.querySelectorAll('#grid .row').length === 1")
    assert visit.page.title() == title and visit.faults == []
    assert all(url.startswith(address.rsplit("/", 2)[0]) for url in visit.asked)
    # Nothing hangs out of a narrow window, however long the text.
    visit.page.set_viewport_size({"width": 420, "height": 800})
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 420
