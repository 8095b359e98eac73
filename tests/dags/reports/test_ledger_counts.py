"""Counts and samples of the ledger are the same however it is cut into parts."""

from __future__ import annotations

from urllib.parse import urlsplit

import pyarrow as pa

from gristmill.dags.reports.ledger_counts import ErrorCounts, SampledRows, hosts_of

URLS = [
    "http://a.test/1.jpg", "https://a.test:8080?x=1", "HTTP://B.test", "ftp://user@c.test/x",
    "http://[::1]:80/x", "no url", "", None, "http:///x", "x y://z.test/", "data:abc://q",
    "http://a.test#part", "//d.test/http://e.test", "http://müller.test/x",
]  # fmt: skip


def test_hosts_are_those_of_urlsplit() -> None:
    expected = [urlsplit(url).netloc if url and "://" in url else "" for url in URLS]
    assert hosts_of(pa.chunked_array([URLS], pa.string())).to_pylist() == expected


def ledger(count: int) -> pa.Table:
    fates = [
        ("kept", None, None), ("dropped", "download", "http 404"), ("dropped", "keep", "small"),
        ("merged", "join", "document"), ("dropped", "source", "repeated row"),
    ]  # fmt: skip
    rows = []
    for i in range(count):
        verdict, node, reason = fates[i * i % 5]
        rows.append(
            {
                "uid": f"{i:032x}", "url": f"http://host{i % 3}.test/{i}", "verdict": verdict,
                "node": node, "reason": reason, "value": None, "clip_score": i / 100,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows)


def test_samples_do_not_depend_on_parts() -> None:
    table, found = ledger(200), []
    for size in (200, 17, 1):
        samples = SampledRows(["join", "download"], kept=5, dropped=3)
        for part, low in enumerate(range(0, 200, size)):
            samples.add(part, table.slice(low, size))
        found.append([(f, n, [row["uid"] for _, row in held]) for f, n, held in samples.fates()])
    assert found[0] == found[1] == found[2]
    fates = {fate: (total, len(uids)) for fate, total, uids in found[0]}
    kept = sum(verdict == "kept" for verdict in table["verdict"].to_pylist())
    assert fates["", ""] == (kept, 5) and fates["download", "http 404"][1] == 3
    assert ("join", "document") not in fates


def test_errors_are_counted_by_cause_and_host() -> None:
    table = ledger(100)
    rows = table.to_pylist()
    counts = ErrorCounts(["download"], "source")
    for low in range(0, 100, 13):
        counts.add(table.slice(low, 13))
    failed = [row for row in rows if row["node"] == "download"]
    [cause] = counts.causes()
    assert (cause.cause, cause.count) == ("http 404", len(failed))
    assert cause.example == failed[0]["url"]
    for host in counts.hosts():
        mine = [row for row in rows if f"//{host.host}/" in row["url"]]
        assert host.failed == sum(row["node"] == "download" for row in mine)
        assert host.succeeded == sum(
            row["node"] in (None, "keep") and row["verdict"] != "merged" for row in mine
        )
        assert host.main_cause == "http 404"
