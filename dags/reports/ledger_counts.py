"""What a report counts and samples of the ledger, a part at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypedDict, cast
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from gristmill.dags.reports.report import ErrorCause, HostOutcome

# A plain URL's host, as `urlsplit` finds it; anything stranger is left to `urlsplit` itself.
_PLAIN_HOST = r"^[A-Za-z][A-Za-z0-9+.\-]*://(?P<host>[A-Za-z0-9.\-_:]*)(?:[/?#]|$)"
_CAUSES, _HOSTS = 40, 15


class LedgerRow(TypedDict, total=False):
    """A row of the ledger, as far as a report shows it."""

    uid: str
    node: str | None
    reason: str | None
    value: str | None
    clip_score: float | None


LEDGER_COLUMNS = ("uid", "url", "path", "verdict", "node", "reason", "value", "clip_score")
Fate = tuple[str, str]
"""Node and reason; empty for what was kept."""


class SampledRows:
    """For each fate, the rows whose uids have the lowest hashes: the same whatever the parts."""

    def __init__(self, maps: Sequence[str], kept: int, dropped: int) -> None:
        """Rows to sample of what was `kept`, and of what each reason `dropped`. Rows that a Map of
        `maps` merged go on in another row and are left out."""
        self._maps = pa.array(list(maps), pa.string())
        self._most = {True: kept, False: dropped}
        self._best: dict[Fate, list[tuple[int, int, LedgerRow]]] = {}
        self._totals: Counter[Fate] = Counter()

    def add(self, part: int, ledger: pa.Table) -> None:
        """Rows of one part."""
        going_on = pc.and_(
            pc.equal(ledger["verdict"], "merged"), pc.is_in(ledger["node"], self._maps)
        )
        ledger = ledger.filter(pc.invert(going_on))
        if not len(ledger):
            return
        named = [pc.fill_null(ledger[name], "") for name in ("node", "reason")]
        fates = pc.binary_join_element_wise(*named, "\0").combine_chunks().dictionary_encode()
        code = fates.indices.to_numpy()
        uids = ledger["uid"].to_pylist()
        key = np.array([xxhash.xxh3_64_intdigest(uid.encode()) for uid in uids], np.uint64)
        for number, text in enumerate(fates.dictionary.to_pylist()):
            node, _, reason = text.partition("\0")
            rows = np.flatnonzero(code == number)
            self._totals[node, reason] += len(rows)
            self._hold((node, reason), part, ledger, rows, key)

    def _hold(
        self,
        fate: Fate,
        part: int,
        ledger: pa.Table,
        rows: NDArray[np.int64],
        key: NDArray[np.uint64],
    ) -> None:
        """Those of `rows` that are among the best so far."""
        most = self._most[not fate[0]]
        held = self._best.setdefault(fate, [])
        rows = rows[np.argsort(key[rows], kind="stable")[:most]]
        if len(held) == most:
            rows = rows[key[rows] < np.uint64(held[-1][0])]
        names = [name for name in LedgerRow.__annotations__ if name in ledger.column_names]
        taken = ledger.select(names).take(pa.array(rows)).to_pylist()
        held += [
            (int(key[row]), part, cast(LedgerRow, one))
            for row, one in zip(rows, taken, strict=True)
        ]
        held.sort(key=lambda item: item[0])
        del held[most:]

    def fates(self) -> list[tuple[Fate, int, list[tuple[int, LedgerRow]]]]:
        """(fate, its rows in all, sampled rows with their parts), the commonest first."""
        return [
            (fate, self._totals[fate], [(part, row) for _, part, row in held])
            for fate, held in sorted(self._best.items(), key=lambda item: -self._totals[item[0]])
        ]


class ErrorCounts:
    """Why rows could not be fetched or decoded, and how each host did."""

    def __init__(self, maps: Sequence[str], source: str) -> None:
        self._maps, self._source = pa.array(list(maps), pa.string()), source
        self._causes: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}
        self._good: Counter[str] = Counter()
        self._bad: dict[str, Counter[str]] = {}

    def add(self, ledger: pa.Table) -> None:
        """Rows of one part."""
        ledger = ledger.filter(pc.not_equal(ledger["verdict"], "merged"))
        node = pc.fill_null(ledger["node"], "")
        failed = pc.is_in(node, self._maps)
        self._add_failed(ledger.filter(failed))
        passed = ledger.filter(pc.and_not(pc.not_equal(node, self._source), failed))
        for host, count in _value_counts(hosts_of(passed["url"])):
            self._good[host] += count

    def _add_failed(self, failed: pa.Table) -> None:
        host = hosts_of(failed["url"])
        url = pc.if_else(pc.not_equal(failed["url"], ""), failed["url"], None)
        # Ledgers that are older have no paths.
        path = failed["path"] if "path" in failed.column_names else url
        shown = pc.coalesce(url, path, failed["uid"])
        table = pa.table([failed["node"], failed["reason"], host, shown], names=list("nrhs"))
        # In this process's one thread, groups come in the order of their first rows.
        by_cause = table.group_by(["n", "r"], use_threads=False)
        for row in by_cause.aggregate([("s", "first"), ("s", "count")]).to_pylist():
            self._causes[row["n"], row["r"]] += row["s_count"]
            self._examples.setdefault((row["n"], row["r"]), row["s_first"])
        by_host = table.group_by(["h", "r"], use_threads=False)
        for row in by_host.aggregate([("s", "count")]).to_pylist():
            self._bad.setdefault(row["h"], Counter())[row["r"]] += row["s_count"]

    def causes(self) -> list[ErrorCause]:
        """The commonest, with an example each."""
        return [
            ErrorCause(reason, node, count, self._examples[node, reason])
            for (node, reason), count in self._causes.most_common(_CAUSES)
        ]

    def hosts(self) -> list[HostOutcome]:
        """Those with most failures."""
        worst = sorted(self._bad.items(), key=lambda item: -sum(item[1].values()))[:_HOSTS]
        return [
            HostOutcome(host, self._good[host], sum(reasons.values()), reasons.most_common(1)[0][0])
            for host, reasons in worst
            if host
        ]


def _value_counts(values: pa.Array) -> list[tuple[str, int]]:
    counts = values.value_counts()
    return list(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True))


def hosts_of(urls: pa.ChunkedArray) -> pa.Array:
    """Host, and port if it is named, of each URL; empty for what has none."""
    urls = urls.combine_chunks()
    found = pc.struct_field(pc.extract_regex(urls, _PLAIN_HOST), "host")
    strange = pc.and_(pc.is_null(found), pc.fill_null(pc.match_substring(urls, "://"), False))
    if pc.any(strange).as_py():
        texts, known = urls.to_pylist(), found.to_pylist()
        for row in np.flatnonzero(strange.to_numpy(zero_copy_only=False)).tolist():
            known[row] = urlsplit(texts[row]).netloc
        found = pa.array(known, pa.string())
    return pc.fill_null(found, "")
