"""What each list of a run came to, where others were added to the first."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from gristmill.dags.engine.additions import list_title
from gristmill.dags.engine.cut_record import first_part
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.pipelines.sealed import find_sealed
from gristmill.pipelines.verdicts import DROPPED, KEPT


@dataclass(frozen=True)
class ListOutcome:
    """One list: its rows, with what was made of them on the way, and the shards that it filled."""

    name: str
    path: str
    rows: int
    kept: int
    dropped: int
    # Split and number of its shards, in words.
    shards: str


class ListCounts:
    """Counts rows by list, as parts pass."""

    def __init__(self, layout: RunLayout) -> None:
        self._layout = layout
        self._starts = [first_part(one) for one in layout.lists]
        self._counts = [{KEPT: 0, DROPPED: 0, "rows": 0} for _ in self._starts]

    def add(self, part: int, ledger: pa.Table) -> None:
        """The ledger of a part."""
        number = max(i for i, start in enumerate(self._starts) if start <= part)
        counts, verdicts = self._counts[number], ledger["verdict"].to_pylist()
        counts["rows"] += len(verdicts)
        for verdict in (KEPT, DROPPED):
            counts[verdict] += verdicts.count(verdict)

    def outcomes(self, node: str) -> list[ListOutcome]:
        """What each list came to, with shards of the product of `node`; nothing for one list."""
        if len(self._starts) == 1:
            return []
        manifest = find_sealed(self._layout.folder.sub(node), "manifest.json") if node else None
        brought = (manifest or {}).get("lists", [{"shards": {}}] * len(self._starts))
        ends: dict[str, int] = {}
        found = []
        for one, counts, shards in zip(self._layout.lists, self._counts, brought, strict=True):
            source, words = one.reading, []
            for split, count in shards["shards"].items():
                start, ends[split] = ends.get(split, 0), ends.get(split, 0) + count
                if count:
                    last = f" to {ends[split] - 1:08d}" if count > 1 else ""
                    words.append(f"{split}/{start:08d}{last}")
            found.append(
                ListOutcome(
                    list_title(source), str(getattr(source, "path", "")), counts["rows"],
                    counts[KEPT], counts[DROPPED], ", ".join(words) or "none",
                )
            )  # fmt: skip
        return found
