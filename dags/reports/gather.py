"""Gathers what a report shows from a run folder, a part at a time.

Rows are counted, sampled or laid down in files as they pass; pictures are read of a sample alone.
So what it holds depends on how many reasons, hosts and clusters there are, and not on the rows.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gristmill.dags.engine.ledger import count_nodes, deciding_nodes, ledger_schema
from gristmill.dags.engine.rows import RowReader, make_scratch
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.saved import load_saved_table
from gristmill.dags.engine.summary import RuleOutcome, RunSummary, keep_outcomes, rule_warnings
from gristmill.dags.graph import columns_written, is_row_stage
from gristmill.dags.reports.corpus import CorpusCounts
from gristmill.dags.reports.distributions import ColumnFiles, count_bins, histogram_edges
from gristmill.dags.reports.duplicate_groups import (
    GROUP_COLUMNS,
    CopyRow,
    GroupsOfCopies,
    copy_note,
    rows_of_groups,
)
from gristmill.dags.reports.ledger_counts import (
    LEDGER_COLUMNS,
    ErrorCounts,
    LedgerRow,
    SampledRows,
)
from gristmill.dags.reports.lists import ListCounts
from gristmill.dags.reports.model import gather_model
from gristmill.dags.reports.report import (
    DuplicateGroup,
    FaultFacts,
    FaultTruth,
    FunnelStep,
    Histogram,
    NodeTiming,
    PictureGrid,
    ReportData,
    SplitOutcome,
    Thumbnail,
)
from gristmill.dags.reports.thumbnails import RowPictures
from gristmill.dags.runs.plan import finished_parts, open_run, where_it_ran
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sealed import read_sealed
from gristmill.pipelines.shards.reader import read_manifest
from gristmill.pipelines.stage import Map, Score, Write

_PICTURES = 24
_PER_REASON = 12
_GROUPS = 12
_BINS = 40
_LIBRARIES = (
    "gristmill", "ray", "torch", "open_clip_torch", "img2dataset", "pyarrow", "duckdb",
    "opencv-python-headless",
)  # fmt: skip
# `column < 3`, `column > 0.5`: what a histogram can show of a rule.
_COMPARISON = re.compile(r"\b([a-z_]\w*)\s*[<>]=?\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)\b")


class JudgedSummary(RunSummary, total=False):
    """`summary.json` of a demo, which knows what was planted."""

    truth: dict[str, FaultFacts]
    wrong_caption_auc: float


@dataclass
class _Rows:
    """What one pass over the rows of a run leaves; None for what its nodes do not write."""

    samples: SampledRows
    errors: ErrorCounts
    lists: ListCounts
    scores: ColumnFiles | None = None
    copies: GroupsOfCopies | None = None
    corpus: CorpusCounts | None = None


def gather_report(out: str, command: str = "") -> ReportData:
    """Read a finished run. `RunError` if it is not finished."""
    layout = open_run(out)
    parts = finished_parts(layout)
    with where_it_ran(layout):
        return _Gatherer(layout, parts, command).gather()


class _Gatherer:
    """Reads one run."""

    def __init__(self, layout: RunLayout, parts: int, command: str) -> None:
        self.layout, self.parts, self.command = layout, parts, command
        self.dag, self.folder = layout.dag, layout.folder
        self.summary: JudgedSummary = cast(JudgedSummary, read_sealed(self.folder, "summary.json"))
        self.keeps = [n for n in self.dag.order() if isinstance(self.dag.stage(n), Keep)]
        self.looks = RowPictures(layout)

    def gather(self) -> ReportData:
        """All of it; rows go through files on the run's own disk, or this machine's."""
        scratch = make_scratch(self.layout)
        try:
            return self._gather(self._read_rows(scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _gather(self, rows: _Rows) -> ReportData:
        summary = self.summary
        rules = [rule for node in self.keeps for rule in keep_outcomes(self.layout, node)]
        kept, dropped = self._pictures(rows.samples)
        source = self.dag.stage(self.dag.source)
        truth = summary.get("truth", {})
        return ReportData(
            title=f"{self.dag.name} run",
            source=str(getattr(source, "path", "")) or type(source).__name__,
            out=self.layout.url,
            command=self.command,
            seconds=summary["seconds"],
            peak_rss_mb=summary["peak_rss_mb"],
            rows_in=summary["rows_in"],
            kept=summary["kept"],
            dropped=sum(sum(reasons.values()) for reasons in summary["dropped"].values()),
            merged=summary["merged"],
            ledger_ok=summary["ledger_ok"],
            warnings=[*summary.get("advice", []), *rule_warnings(rules)],
            funnel=self._funnel(),
            rules=rules,
            quantiles=self._quantiles(),
            histograms=self._histograms(rows.scores, rules),
            kept_pictures=kept,
            dropped_pictures=dropped,
            duplicate_groups=self._groups(rows.copies),
            errors=rows.errors.causes(),
            hosts=rows.errors.hosts(),
            shards=self._shards(),
            lists=rows.lists.outcomes(next(iter(self._products()), "")),
            nodes=self._nodes(),
            truth=[FaultTruth(fault, **facts) for fault, facts in truth.items()],
            wrong_caption_auc=summary.get("wrong_caption_auc"),
            model=gather_model(self.folder),
            corpus=rows.corpus.tables() if rows.corpus else [],
            environment=[*_versions(), ("python", platform.python_version())],
        )

    def _funnel(self) -> list[FunnelStep]:
        counts = count_nodes(self.layout, self.parts)
        steps = []
        for node in deciding_nodes(self.dag):
            count = counts[node]
            stage = self.dag.stage(node)
            if isinstance(stage, Score) and not count.dropped:
                continue
            reasons = dict(sorted(count.dropped.items(), key=lambda item: (-item[1], item[0])))
            steps.append(
                FunnelStep(
                    node, type(stage).__name__, count.rows_in, count.kept,
                    count.rows_added, count.merged, reasons,
                )
            )  # fmt: skip
        return steps

    def _quantiles(self) -> list[tuple[str, float]]:
        found = []
        for node in self.keeps:
            folder = self.folder.sub(self.layout.last_folder(node))
            table = load_saved_table(folder, "saved/quantiles.parquet")
            found += [(row["quantile"], row["value"]) for row in table.to_pylist()]
        return found

    # -- rows, a part at a time -------------------------------------------------------------------

    def _read_rows(self, scratch: str) -> _Rows:
        """One pass over the parts; nothing of a part is held but what it adds to some counts."""
        maps = [node for node in self.dag.order() if isinstance(self.dag.stage(node), Map)]
        rows = _Rows(
            SampledRows(maps, _PICTURES, _PER_REASON),
            ErrorCounts(maps, self.dag.source),
            ListCounts(self.layout),
        )
        columns = dict(self._score_columns())
        entering = self.dag.columns(self.keeps[-1]) if self.keeps else pa.schema([])
        if columns:
            schema = pa.schema([entering.field(name) for name in columns])
            rows.scores = ColumnFiles(scratch, schema)
        if "duplicate_group" in entering.names:
            rows.copies = GroupsOfCopies(scratch)
        if self.keeps:
            rows.corpus = CorpusCounts(self.dag.columns(self.keeps[0]))
        fates = ledger_schema(self.dag).names
        for part in range(self.parts):
            names = [name for name in LEDGER_COLUMNS if name in fates]
            ledger = self.folder.read_table(f"ledger/{part:06d}.parquet", names)
            rows.samples.add(part, ledger)
            rows.errors.add(ledger)
            rows.lists.add(part, ledger)
            if self.keeps:
                kept = ledger.filter(pc.equal(ledger["verdict"], "kept"))["uid"]
                self._add_columns(rows, part, list(columns), kept)
        return rows

    def _add_columns(
        self, rows: _Rows, part: int, scores: list[str], kept: pa.ChunkedArray
    ) -> None:
        """What enters the Keep nodes of one part: read once, if there is one such node."""
        # Of this part alone: a reader keeps the records of all that it has read.
        reader = RowReader(self.layout, many=True)
        first, last = self.keeps[0], self.keeps[-1]
        groups = self._group_columns() if rows.copies else []
        corpus = rows.corpus.columns if rows.corpus else []
        wanted = ["uid", *scores, *groups, *(corpus if first == last else [])]
        table = reader.entering(last, part, list(dict.fromkeys(wanted)))
        if rows.scores:
            rows.scores.append(table, _is_in(table["uid"], kept))
        if rows.copies:
            rows.copies.add(part, table.select(groups))
        if rows.corpus and corpus:
            if first != last:
                table = reader.entering(first, part, ["uid", *corpus])
            left = reader.leaving(last, part, ["uid"])["uid"]
            rows.corpus.add(table.select(corpus), _is_in(table["uid"], left))

    def _group_columns(self) -> list[str]:
        """What is known of copies where they enter the last Keep node."""
        there = self.dag.columns(self.keeps[-1]).names
        return [name for name in GROUP_COLUMNS if name in there]

    def _score_columns(self) -> Iterator[tuple[str, str]]:
        """(column, its node) of the numbers that enter the last Keep node."""
        if not self.keeps:
            return
        entering = self.dag.columns(self.keeps[-1]).names
        for node in self.dag.upstream(self.keeps[-1]):
            if is_row_stage(self.dag.stage(node)):
                continue
            for column in columns_written(self.dag.stage(node)):
                number = pa.types.is_floating(column.type) or column.type == pa.int32()
                # Places in an order are spread evenly by their nature.
                if number and column.name in entering and not column.name.endswith("_rank"):
                    yield column.name, node

    # -- what is shown of them --------------------------------------------------------------------

    def _histograms(
        self, scores: ColumnFiles | None, rules: Sequence[RuleOutcome]
    ) -> list[Histogram]:
        """Of each score that has two different values."""
        if scores is None:
            return []
        thresholds = _thresholds(rules)
        found = []
        for name, node in self._score_columns():
            edges, missing = histogram_edges(scores, name, _BINS)
            if len(edges):
                counts, of_kept = count_bins(scores, name, edges)
                found.append(
                    Histogram(
                        name, node, edges.tolist(), counts.tolist(), of_kept.tolist(),
                        thresholds.get(name, []), missing,
                    )
                )  # fmt: skip
        return found

    def _pictures(self, samples: SampledRows) -> tuple[list[Thumbnail], list[PictureGrid]]:
        """A sample of what was kept, and of what each reason dropped."""
        shown: list[PictureGrid] = []
        kept: list[Thumbnail] = []
        for (node, reason), total, held in samples.fates():
            wanted = [(part, row["uid"], _note(row)) for part, row in held]
            pictures = self.looks.load(wanted, node)
            if not node:
                kept = pictures
            elif any(picture.src for picture in pictures):
                pictures = [picture for picture in pictures if picture.src]
                shown.append(PictureGrid(node, reason, total, pictures))
        order = {name: i for i, name in enumerate(self._rule_names())}
        shown.sort(key=lambda grid: (order.get(grid.reason, -1), grid.reason))
        return kept, shown

    def _rule_names(self) -> list[str]:
        stages = [self.dag.stage(node) for node in self.keeps]
        return [name for stage in stages if isinstance(stage, Keep) for name in stage.rules]

    def _groups(self, copies: GroupsOfCopies | None) -> list[DuplicateGroup]:
        """Some groups of copies with their pictures, if there are any to show."""
        if copies is None or not self.looks.maps:
            return []
        chosen = copies.most_telling(_GROUPS)
        members: dict[str, list[tuple[int, CopyRow]]] = {name: [] for name in chosen}
        for part in sorted({part for parts in chosen.values() for part in parts}):
            table = RowReader(self.layout).entering(self.keeps[-1], part, self._group_columns())
            for row in rows_of_groups(table, list(chosen)):
                members[row["duplicate_group"]].append((part, row))
        found = []
        for group in members.values():
            one_each = {row["image_id"]: (part, row) for part, row in group}
            stays = [m for m in one_each.values() if m[1]["duplicate_of"] is None]
            others = [m for m in one_each.values() if m[1]["duplicate_of"] is not None][:8]
            if stays and others:
                pictures = self.looks.load(
                    [(part, row["uid"], copy_note(row)) for part, row in [stays[0], *others]]
                )
                found.append(DuplicateGroup(len(one_each), pictures[0], pictures[1:]))
        return found

    # -- shards, time ---------------------------------------------------------------------------

    def _products(self) -> list[str]:
        return [node for node in self.dag.order() if isinstance(self.dag.stage(node), Write)]

    def _shards(self) -> list[SplitOutcome]:
        found = []
        for node in self._products():
            manifest = read_manifest(self.folder.sub(node))
            for split, facts in manifest["splits"].items():
                shards = facts["shards"]
                found.append(
                    SplitOutcome(
                        split if node == "shards" else f"{node}/{split}",
                        len(shards),
                        sum(shard["samples"] for shard in shards),
                        sum(shard["bytes"] for shard in shards),
                    )
                )
        return found

    def _nodes(self) -> list[NodeTiming]:
        return [
            NodeTiming(
                node, type(self.dag.stage(node)).__name__, facts["parts"], facts["reused"],
                facts["seconds"], facts["rows_per_s"], self.layout.fingerprints[node],
            )
            for node, facts in self.summary["nodes"].items()
        ]  # fmt: skip


def _is_in(values: pa.ChunkedArray, some: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which of `values` [n] are among `some`."""
    return np.asarray(pc.is_in(values, some).to_numpy())


def _note(row: LedgerRow) -> str:
    """The value that decided."""
    if row["reason"] is None:
        score = row.get("clip_score")
        return f"clip_score {score:.3f}" if score is not None else ""
    value = row["value"] or ""
    if "duplicate_of=" in value:
        return ""
    return re.sub(r"(\d\.\d{3})\d+", r"\1", value).replace("=", " ")


def _thresholds(rules: Sequence[RuleOutcome]) -> dict[str, list[tuple[str, float]]]:
    found: dict[str, list[tuple[str, float]]] = {}
    for rule in rules:
        plain = rule.resolved.replace("::DOUBLE", "")
        for column, value in _COMPARISON.findall(plain):
            found.setdefault(column, []).append((rule.name, float(value)))
    return found


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _LIBRARIES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
