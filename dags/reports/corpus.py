"""What a corpus is made of: counts over the columns that enter a run's first Keep node."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# One-row queries by title: the columns they need, and (label, SQL of a count) pairs.
_COUNTS = {
    "Captions": (
        ("caption_copies", "caption_group_rank"),
        (
            ("said of more than one picture, word for word", "caption_copies > 1"),
            ("said of more than ten", "caption_copies > 10"),
            ("near copies of another caption", "caption_group_rank > 0 AND caption_copy_rank = 0"),
        ),
    ),
    "Clean-up of captions": (
        ("caption_original", "caption_masked"),
        (
            ("mended or masked; the original is kept", "caption_original IS NOT NULL"),
            ("with something private masked", "caption_masked > 0"),
        ),
    ),
    "Copies of pictures": (
        ("duplicate_of",),
        (
            ("equal bytes", "duplicate_kind = 'bytes'"),
            ("equal pixels", "duplicate_kind = 'pixels'"),
            ("near, by hash and thumbnail", "duplicate_kind = 'near'"),
        ),
    ),
    "Copies by local features": (
        ("copy_of",),
        (
            ("copies", "copy_of IS NOT NULL"),
            ("of these, not found by hashes", "copy_of IS NOT NULL AND duplicate_of IS NULL"),
            ("mirror images", "copy_mirrored"),
            ("hash copies that local features do not confirm", "duplicate_points < 7"),
        ),
    ),
    "Meaning": (
        ("semantic_similarity", "semantic_cluster"),
        (
            ("within 0.99 of a better picture", "semantic_similarity > 0.99"),
            ("within 0.95", "semantic_similarity > 0.95"),
            ("within 0.90", "semantic_similarity > 0.90"),
        ),
    ),
    "Evaluations": (
        ("contaminated_by",),
        (
            ("pictures of an evaluation", "contamination IN ('bytes', 'pixels', 'near')"),
            ("captions of an evaluation", "contamination = 'caption'"),
        ),
    ),
}


@dataclass(frozen=True)
class CorpusTable:
    """Counts of one kind: (what, rows, rows of these that were kept)."""

    title: str
    rows: list[tuple[str, int, int]] = field(default_factory=list)
    note: str = ""


class CorpusCounts:
    """Counts over all rows, added up part by part: a part is one small table for DuckDB."""

    def __init__(self, available: pa.Schema) -> None:
        """`available`: the columns that enter the first Keep node."""
        names = available.names
        self._titles = {
            title: [(label, sql) for label, sql in counts if _identifiers(sql) <= set(names)]
            for title, (needed, counts) in _COUNTS.items()
            if set(needed) <= set(names)
        }
        wanted = {word for counts in self._titles.values() for _, sql in counts
                  for word in _identifiers(sql)}  # fmt: skip
        wanted |= {name for title in self._titles for name in _COUNTS[title][0]}
        wanted |= {"caption_language"} & set(names)
        # The columns that `add` must be given; none if there is nothing to count.
        self.columns = sorted(wanted)
        # Rows, and rows of these that were kept, by (title, label), and by language.
        self._counts: Counter[tuple[str, str, bool]] = Counter()
        self._languages: dict[str, list[int]] = {}
        self._clusters: Counter[int | None] = Counter()
        self._database = duckdb.connect(":memory:")
        self._database.execute("SET threads = 1")
        self._database.execute("SET memory_limit = '200MB'")

    def add(self, table: pa.Table, kept: NDArray[np.bool_]) -> None:
        """Rows of a part with `columns`, and which of them were kept [n]."""
        self._database.register("rows", table.append_column("kept", pa.array(kept)))
        keys = [(title, label) for title, counts in self._titles.items() for label, _ in counts]
        conditions = [sql for counts in self._titles.values() for _, sql in counts]
        if conditions:
            sums = [f"count(*) FILTER (WHERE ({sql}) AND {more})"
                    for sql in conditions for more in ("true", "kept")]  # fmt: skip
            found = self._database.execute(f"SELECT {', '.join(sums)} FROM rows").fetchall()[0]
            for i, key in enumerate(keys):
                self._counts[(*key, False)] += int(found[2 * i])
                self._counts[(*key, True)] += int(found[2 * i + 1])
        if "caption_language" in self.columns:
            for name, count, of_kept in self._database.execute(
                "SELECT coalesce(caption_language, 'none'), count(*), count(*) FILTER (kept) "
                "FROM rows GROUP BY 1"
            ).fetchall():
                both = self._languages.setdefault(str(name), [0, 0])
                both[0] += int(count)
                both[1] += int(of_kept)
        if "semantic_cluster" in self.columns:
            self._clusters.update(
                dict(
                    self._database.execute(
                        "SELECT semantic_cluster, count(*) FROM rows GROUP BY 1"
                    ).fetchall()
                )
            )
        self._database.unregister("rows")

    def tables(self) -> list[CorpusTable]:
        """What was found, in the order of a report."""
        tables = [self._language_table()] if "caption_language" in self.columns else []
        for title, counts in self._titles.items():
            rows = [
                (label, self._counts[title, label, False], self._counts[title, label, True])
                for label, _ in counts
            ]
            note = self._cluster_note() if title == "Meaning" else ""
            tables.append(CorpusTable(title, rows, note))
        return [table for table in tables if table.rows]

    def _language_table(self) -> CorpusTable:
        found = sorted(self._languages.items(), key=lambda item: (-item[1][0], item[0]))
        rows = [(name, count, of_kept) for name, (count, of_kept) in found[:8]]
        rest = len(found) - len(rows)
        return CorpusTable("Languages of captions", rows, f"and {rest} more" if rest > 0 else "")

    def _cluster_note(self) -> str:
        count, largest = len(self._clusters), max(self._clusters.values(), default=0)
        clusters = "one cluster" if count == 1 else f"{count:,} clusters"
        return f"{clusters}; the largest has {largest:,} rows"


def _identifiers(sql: str) -> set[str]:
    """The columns that a condition of `_COUNTS` names."""
    cleaned = "".join(c if c.isalnum() or c == "_" else " " for c in sql)
    return {word for word in cleaned.split() if word.islower() and "_" in word}
