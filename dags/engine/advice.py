"""What a person should do about how a run ended: lines for the summary, the terminal and the
report. Reasons in the ledger stay short, so that they can be counted; the remedy stands here."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import pyarrow.compute as pc

from gristmill.dags.engine.ledger import NodeCount, kept_rows
from gristmill.dags.engine.run_folder import RunLayout

# Reasons of a downloader for an address that it must not fetch from, unless it is told to.
_REFUSED = ("loopback address", "private address", "link-local address", "reserved address")
_PORT = "port not allowed"


def advice(layout: RunLayout, counts: Mapping[str, NodeCount]) -> list[str]:
    """Lines about a run whose ledger is written, the gravest first; none if all is as it should
    be."""
    return [*_nothing_kept(layout, counts), *_refused_addresses(layout, counts)]


def _nothing_kept(layout: RunLayout, counts: Mapping[str, NodeCount]) -> list[str]:
    rows = counts[layout.dag.source].rows_in
    if not rows or kept_rows(layout.dag, dict(counts)):
        return []
    causes = sorted(
        (-number, node, reason)
        for node, count in counts.items()
        for reason, number in count.dropped.items()
    )
    most = ", ".join(f"{reason} ({node}) {-number:,}" for number, node, reason in causes[:3])
    return [f"NOTHING IS KEPT of {rows:,} rows; most were dropped for: {most}"]


def _refused_addresses(layout: RunLayout, counts: Mapping[str, NodeCount]) -> list[str]:
    lines = []
    for node, count in counts.items():
        for reason in (*_REFUSED, _PORT):
            if number := count.dropped.get(reason, 0):
                where = _example(layout, node, reason) or "HOST:PORT"
                every = f", or --set {node}.ports=any" if reason == _PORT else ""
                lines.append(
                    f"{node}: {number:,} rows have a {reason}; if that server is meant, "
                    f"--set {node}.allow_hosts={where}{every}"
                )
    return lines


def _example(layout: RunLayout, node: str, reason: str) -> str:
    """host:port of a row that was dropped for this reason."""
    ledger = layout.folder.sub("ledger")
    for name in ledger.names():
        table = ledger.read_table(name, ["url", "node", "reason"])
        mine = pc.and_(pc.equal(table["node"], node), pc.equal(table["reason"], reason))
        for url in table.filter(mine)["url"].drop_null().to_pylist():
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
            return f"{host}:{port}"
    return ""
