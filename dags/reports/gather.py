"""Gathers what a report shows from a run folder; reads a sample of pictures, never all of them."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from gristmill.dags.engine.ledger import count_nodes, deciding_nodes
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.summary import RuleOutcome, keep_outcomes, rule_warnings
from gristmill.dags.graph import columns_written, is_row_stage
from gristmill.dags.reports.corpus import gather_corpus
from gristmill.dags.reports.model import gather_model
from gristmill.dags.reports.report import (
    DuplicateGroup,
    ErrorCause,
    FaultTruth,
    FunnelStep,
    Histogram,
    HostOutcome,
    NodeTiming,
    PictureGrid,
    ReportData,
    SplitOutcome,
    Thumbnail,
)
from gristmill.dags.reports.thumbnails import RowPictures
from gristmill.dags.runs.plan import finished_parts, open_run
from gristmill.pipelines.keep import Keep
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


def gather_report(out: str, command: str = "") -> ReportData:
    """Read a finished run. `RunError` if it is not finished."""
    layout = open_run(out)
    parts = finished_parts(layout)
    return _Gatherer(layout, parts, command).gather()


class _Gatherer:
    """Reads one run."""

    def __init__(self, layout: RunLayout, parts: int, command: str) -> None:
        self.layout, self.parts, self.command = layout, parts, command
        self.dag, self.folder = layout.dag, layout.folder
        self.reader = RowReader(layout)
        self.summary = self.folder.read_json("summary.json")
        self.keeps = [n for n in self.dag.order() if isinstance(self.dag.stage(n), Keep)]
        self.looks = RowPictures(layout)

    def gather(self) -> ReportData:
        summary = self.summary
        rules = [rule for node in self.keeps for rule in keep_outcomes(self.layout, node)]
        kept, dropped = self._pictures()
        causes, hosts = self._errors()
        source: Any = self.dag.stage(self.dag.source)
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
            histograms=self._histograms(rules),
            kept_pictures=kept,
            dropped_pictures=dropped,
            duplicate_groups=self._groups(),
            errors=causes,
            hosts=hosts,
            shards=self._shards(),
            nodes=self._nodes(),
            truth=[FaultTruth(fault, **facts) for fault, facts in truth.items()],
            wrong_caption_auc=summary.get("wrong_caption_auc"),
            model=gather_model(self.folder),
            corpus=gather_corpus(self.dag, self.reader, self.parts),
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
            folder = self.folder.sub(self.layout.node_folder(node))
            table = folder.read_table("saved/quantiles.parquet")
            found += [(row["quantile"], row["value"]) for row in table.to_pylist()]
        return found

    def _ledgers(self) -> Iterator[tuple[int, pa.Table]]:
        for part in range(self.parts):
            yield part, self.folder.read_table(f"ledger/{part:06d}.parquet")

    # -- scores ---------------------------------------------------------------------------------

    def _histograms(self, rules: Sequence[RuleOutcome]) -> list[Histogram]:
        """Numeric columns that enter the last Keep node."""
        if not self.keeps:
            return []
        keep = self.keeps[-1]
        entering_names = self.dag.columns(keep).names
        columns = [
            (node, field.name)
            for node in self.dag.upstream(keep)
            if not is_row_stage(self.dag.stage(node))
            for field in columns_written(self.dag.stage(node))
            if field.name in entering_names
            and (pa.types.is_floating(field.type) or field.type == pa.int32())
            # Places in an order are spread evenly by their nature.
            and not field.name.endswith("_rank")
        ]
        tables = [
            self.reader.entering(keep, part, ["uid", *[name for _, name in columns]])
            for part in range(self.parts)
        ]
        entering = pa.concat_tables(tables)
        kept = pa.chunked_array(
            [
                chunk
                for _, ledger in self._ledgers()
                for chunk in ledger.filter(pc.equal(ledger["verdict"], "kept"))["uid"].chunks
            ],
            pa.string(),
        )
        is_kept = pc.is_in(entering["uid"], kept).to_numpy()
        thresholds = _thresholds(rules)
        found = []
        for node, name in columns:
            values = entering[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
            there = np.isfinite(values)
            if there.sum() < 2 or values[there].min() == values[there].max():
                continue
            low, high = _range(values[there])
            edges = np.linspace(low, high, _BINS + 1)
            inside = np.clip(values, low, high)
            counts, _ = np.histogram(inside[there], edges)
            of_kept, _ = np.histogram(inside[there & is_kept], edges)
            found.append(
                Histogram(
                    name, node, edges.tolist(), counts.tolist(), of_kept.tolist(),
                    thresholds.get(name, []), int((~there).sum()),
                )
            )  # fmt: skip
        return found

    # -- pictures -------------------------------------------------------------------------------

    def _pictures(self) -> tuple[list[Thumbnail], list[PictureGrid]]:
        """A sample by uid of what was kept, and of what each reason dropped."""
        best: dict[tuple[str, str], list[tuple[int, int, dict[str, Any]]]] = {}
        totals: Counter[tuple[str, str]] = Counter()
        for part, ledger in self._ledgers():
            for row in ledger.to_pylist():
                if row["verdict"] == "merged" and isinstance(self.dag.stage(row["node"]), Map):
                    # It goes on in another row.
                    continue
                key = (row["node"] or "", row["reason"] or "")
                totals[key] += 1
                most = _PER_REASON if row["node"] else _PICTURES
                held = best.setdefault(key, [])
                held.append((xxhash.xxh3_64_intdigest(row["uid"].encode()), part, row))
                if len(held) > 4 * most:
                    held.sort(key=lambda item: item[0])
                    del held[most:]
        shown: list[PictureGrid] = []
        kept: list[Thumbnail] = []
        for key, held in sorted(best.items(), key=lambda item: -totals[item[0]]):
            node, reason = key
            most = _PER_REASON if node else _PICTURES
            held = sorted(held, key=lambda item: item[0])[:most]
            wanted = [(part, row["uid"], _note(row)) for _, part, row in held]
            pictures = self.looks.load(wanted, node)
            if not node:
                kept = pictures
            elif any(picture.src for picture in pictures):
                pictures = [picture for picture in pictures if picture.src]
                shown.append(PictureGrid(node, reason, totals[key], pictures))
        order = {name: i for i, name in enumerate(self._rule_names())}
        shown.sort(key=lambda grid: (order.get(grid.reason, -1), grid.reason))
        return kept, shown

    def _rule_names(self) -> list[str]:
        stages = [self.dag.stage(node) for node in self.keeps]
        return [name for stage in stages if isinstance(stage, Keep) for name in stage.rules]

    def _groups(self) -> list[DuplicateGroup]:
        """Some groups of copies, the larger first."""
        columns = self.dag.columns(self.keeps[-1]).names if self.keeps else []
        if "duplicate_group" not in columns:
            return []
        keep = self.keeps[-1]
        groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        names = [
            "uid", "image_id", "duplicate_of", "duplicate_kind", "duplicate_group",
            "duplicate_group_size", "duplicate_distance", "duplicate_overlap",
        ]  # fmt: skip
        names = [name for name in names if name in columns]
        for part in range(self.parts):
            table = self.reader.entering(keep, part, names)
            table = table.filter(pc.greater(table["duplicate_group_size"], 1))
            for row in table.to_pylist():
                groups.setdefault(row["duplicate_group"], []).append((part, row))
        several = sorted(groups.values(), key=_group_interest)[:_GROUPS]
        found = []
        for members in several:
            one_each = {row["image_id"]: (part, row) for part, row in members}
            stays = [m for m in one_each.values() if m[1]["duplicate_of"] is None]
            copies = [m for m in one_each.values() if m[1]["duplicate_of"] is not None][:8]
            if not stays or not copies:
                continue
            pictures = self.looks.load(
                [(part, row["uid"], _copy_note(row)) for part, row in [stays[0], *copies]]
            )
            found.append(DuplicateGroup(len(one_each), pictures[0], pictures[1:]))
        return found

    # -- errors, shards, time -------------------------------------------------------------------

    def _errors(self) -> tuple[list[ErrorCause], list[HostOutcome]]:
        maps = [node for node in self.dag.order() if isinstance(self.dag.stage(node), Map)]
        causes: Counter[tuple[str, str]] = Counter()
        examples: dict[tuple[str, str], str] = {}
        good: Counter[str] = Counter()
        bad: dict[str, Counter[str]] = {}
        for _, ledger in self._ledgers():
            ledger = ledger.filter(pc.not_equal(ledger["verdict"], "merged"))
            columns = zip(
                *(ledger[name].to_pylist() for name in ("node", "reason", "url", "uid")),
                strict=True,
            )
            for node, reason, url, uid in columns:
                host = urlsplit(url).netloc if url and "://" in url else ""
                if node in maps:
                    causes[node, reason] += 1
                    examples.setdefault((node, reason), url or uid)
                    bad.setdefault(host, Counter())[reason] += 1
                elif node != self.dag.source:
                    good[host] += 1
        found = [
            ErrorCause(reason, node, count, examples[node, reason])
            for (node, reason), count in causes.most_common(40)
        ]
        worst = sorted(bad.items(), key=lambda item: -sum(item[1].values()))[:15]
        hosts = [
            HostOutcome(host, good[host], sum(reasons.values()), reasons.most_common(1)[0][0])
            for host, reasons in worst
            if host
        ]
        return found, hosts

    def _shards(self) -> list[SplitOutcome]:
        found = []
        for node in self.dag.order():
            if isinstance(self.dag.stage(node), Write):
                manifest = self.folder.read_json(f"{node}/manifest.json")
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


def _group_interest(members: list[tuple[int, dict[str, Any]]]) -> tuple[Any, ...]:
    """Near copies first, as they are what can be wrong; then the larger groups."""
    kinds = {row.get("duplicate_kind") for _, row in members}
    return ("near" not in kinds, -len(members), members[0][1]["duplicate_group"])


def _copy_note(row: dict[str, Any]) -> str:
    if row["duplicate_of"] is None:
        return "stays"
    if "duplicate_overlap" in row:
        return f"overlap {row['duplicate_overlap'] or 0:.2f}"
    if row["duplicate_kind"] == "near":
        return f"near, {row['duplicate_distance']} bits"
    return f"same {row['duplicate_kind']}"


def _note(row: dict[str, Any]) -> str:
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


def _range(values: Any) -> tuple[float, float]:
    """Borders of a histogram; a far tail is gathered in the last bin."""
    low, high = float(values.min()), float(values.max())
    near_low, near_high = (float(q) for q in np.quantile(values, [0.005, 0.995]))
    width = near_high - near_low
    if width > 0 and high > near_high + width:
        high = near_high + width / 10
    if width > 0 and low < near_low - width:
        low = near_low - width / 10
    return low, high


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _LIBRARIES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
