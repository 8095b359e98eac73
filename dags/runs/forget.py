"""Forget samples: tombstones that the next build of shards obeys, and our readers at once.

A tombstone names a row (its uid), a picture (its image_id, which a URL stands for) or bytes (their
sha256). Rows that answer to one are left out of every selection from then on, also if they come
again. The product gets a list of its own (`forgotten.json`) that our readers and the trainer skip;
other people's readers see the samples until the shards are built anew.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.dags.engine.run_folder import ROWS, RunLayout
from gristmill.dags.engine.run_lock import run_lock
from gristmill.dags.engine.tombstones import Tombstone, add_tombstones, read_tombstones
from gristmill.dags.runs.plan import finished_parts, open_run, where_it_ran
from gristmill.errors import ConfigurationError, GristmillError
from gristmill.pipelines.schema import MERGED, make_image_id, normalise_url
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.shards.reader import FORGOTTEN, ShardSet, read_forgotten, read_manifest
from gristmill.pipelines.stage import Map, Write

KINDS = ("uid", "url", "sha256")
# Columns that tombstones name.
_COLUMNS = ("uid", "image_id", "sha256")


@dataclass
class Forgotten:
    """What a call came to."""

    # Rows of the run that its tombstones stand for.
    uids: list[str] = field(default_factory=list)
    # Samples of the product, as it is now, that readers skip because of all tombstones.
    skipped: int = 0
    # What no row of the run answers to; forgotten all the same, should it ever come.
    unknown: list[str] = field(default_factory=list)


def forget(
    out: str, wanted: Sequence[tuple[str, str]], why: str = "", *, lock: bool = True
) -> Forgotten:
    """Set tombstones for (kind, value) pairs on a finished run; kinds are uid, url and sha256."""
    if not wanted:
        raise ConfigurationError("nothing to forget: give --uid, --url, --sha256 or --list")
    stones = {_tombstone(kind, value): f"{kind} {value}" for kind, value in wanted}
    layout = open_run(out)
    parts = finished_parts(layout)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    found = Forgotten()
    with where_it_ran(layout), run_lock(layout.folder, lock=lock) as held:
        new: list[Tombstone] = [
            {"kind": k, "value": v, "when": now, "why": why} for k, v in sorted(stones)
        ]
        add_tombstones(layout.folder, new)
        nodes = _rows(layout, parts)
        for (kind, value), said in stones.items():
            uids = _reached(nodes, [(kind, value)])
            found.uids += uids
            if not uids:
                found.unknown.append(said)
        # What a row grew into has another address; a rule would not know it by that of its parent.
        cut = _cut_from(nodes, set(found.uids))
        named: list[Tombstone] = [
            {"kind": "uid", "value": uid, "when": now, "why": why} for uid in cut
        ]
        held.check()
        add_tombstones(layout.folder, named)
        found.skipped = _tell_readers(layout, nodes)
    found.uids = sorted(set(found.uids))
    return found


def read_list(path: str) -> list[tuple[str, str]]:
    """(kind, value) pairs of a text file: a uid, a sha256 or a URL a line, told apart by form."""
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    return [(_kind(line), line) for line in lines if line and not line.startswith("#")]


def _kind(text: str) -> str:
    if "://" in text:
        return "url"
    return "sha256" if len(text) == 64 else "uid"


def _tombstone(kind: str, value: str) -> tuple[str, str]:
    """What to look for: the column, and its value."""
    if kind == "url":
        return "image_id", make_image_id("url", normalise_url(value))
    digits = {"uid": 32, "sha256": 64}
    if kind not in digits:
        raise ConfigurationError(f"kind {kind!r}; choose one of {', '.join(KINDS)}")
    value = value.strip().lower()
    if len(value) != digits[kind] or set(value) - set("0123456789abcdef"):
        raise ConfigurationError(f"{kind} {value!r} is not {digits[kind]} hex digits")
    return kind, value


def _rows(layout: RunLayout, parts: int) -> list[pa.Table]:
    """uid, image_id, sha256, parent_uid and status of the rows of every Map, in order."""
    dag = layout.dag
    maps = [name for name in dag.order() if isinstance(dag.stage(name), Map)]
    names = ["uid", "image_id", "sha256", "parent_uid", "status"]
    tables = []
    for node in maps or [dag.source]:
        store = layout.store(node)
        tables.append(
            pa.concat_tables([store.table(store.need(part), ROWS, names) for part in range(parts)])
        )
    return tables


def _children(table: pa.Table, parents: set[str]) -> list[str]:
    """Rows that were cut from some of `parents`."""
    going = table.filter(pc.not_equal(table["status"], MERGED))
    return _uids(going, pc.is_in(going["parent_uid"], pa.array(sorted(parents), pa.string())))


def _reached(nodes: Sequence[pa.Table], stones: Sequence[tuple[str, str]]) -> list[str]:
    """uids of the rows that tombstones name, of what was cut from them, and of what they were
    merged into."""
    found: set[str] = set()
    for table in nodes:
        for kind in _COLUMNS:
            values = pa.array([value for k, value in stones if k == kind], pa.string())
            found |= set(_uids(table, pc.is_in(table[kind], values)))
        found |= set(_children(table, found))
        merged = table.filter(pc.equal(table["status"], MERGED))
        into = pc.is_in(merged["uid"], pa.array(sorted(found), pa.string()))
        found |= set(merged.filter(into)["parent_uid"].to_pylist())
    return sorted(found)


def _cut_from(nodes: Sequence[pa.Table], found: set[str]) -> list[str]:
    """Those of `found` that were cut from others of them. A document is not: without the picture it
    may be put together again."""
    cut = {uid for table in nodes for uid in _children(table, found)} & found
    for table in nodes:
        cut -= set(table.filter(pc.equal(table["status"], MERGED))["parent_uid"].to_pylist())
    return sorted(cut)


def _uids(table: pa.Table, mask: pa.BooleanArray) -> list[str]:
    uids: list[str] = table.filter(pc.fill_null(mask, False))["uid"].to_pylist()
    return uids


def _tell_readers(layout: RunLayout, nodes: Sequence[pa.Table]) -> int:
    """Lay the list of uids beside each product's manifest; how many samples it hides."""
    hidden = _hidden(layout, nodes)
    for node, uids in hidden.items():
        product = layout.folder.sub(node)
        if uids:
            write_sealed(product, FORGOTTEN, {"uids": uids})
        else:
            product.remove(FORGOTTEN)
    return sum(len(uids) for uids in hidden.values())


def tell_readers(layout: RunLayout, parts: int) -> None:
    """Lay the lists of what is forgotten beside the products again."""
    if len(read_tombstones(layout.folder)):
        _tell_readers(layout, _rows(layout, parts))


def _hidden(layout: RunLayout, nodes: Sequence[pa.Table]) -> dict[str, list[str]]:
    """Node -> uids of its product that readers must skip."""
    stones = read_tombstones(layout.folder)
    pairs = zip(stones["kind"].to_pylist(), stones["value"].to_pylist(), strict=True)
    uids = set(_reached(nodes, list(pairs)))
    found = {}
    for node in layout.dag.order():
        product = layout.folder.sub(node)
        if isinstance(layout.dag.stage(node), Write) and product.exists("manifest.json"):
            found[node] = sorted(uids & _product_uids(product.url))
    return found


def hidden_problems(layout: RunLayout, parts: int) -> list[str]:
    """Products beside which the list of what is forgotten is missing, or is not what it should
    be."""
    problems = []
    try:
        wanted: dict[str, list[str]] = {}
        if len(read_tombstones(layout.folder)):
            wanted = _hidden(layout, _rows(layout, parts))
        for node in layout.dag.order():
            if isinstance(layout.dag.stage(node), Write):
                told = read_forgotten(layout.folder.sub(node))
                if told != frozenset(wanted.get(node, ())):
                    problems.append(f"{node}/{FORGOTTEN} does not say what is forgotten")
    except GristmillError as error:
        problems.append(str(error))
    return problems


def _product_uids(url: str) -> set[str]:
    from gristmill.pipelines.storage import Folder

    found: set[str] = set()
    for split, content in read_manifest(Folder(url))["splits"].items():
        if content["shards"]:
            shards = ShardSet(url, split)
            for number in range(len(shards.shards)):
                found |= set(shards.metadata(number)["uid"].to_pylist())
    return found
