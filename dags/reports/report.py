"""What a report shows, and how: one self-contained HTML page, and a summary for a terminal."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gristmill.dags.engine.clock import clock
from gristmill.dags.engine.summary import RuleOutcome
from gristmill.dags.reports.corpus import CorpusTable
from gristmill.dags.reports.lists import ListOutcome
from gristmill.dags.reports.model import ModelReport


@dataclass(frozen=True)
class FunnelStep:
    """Rows into and out of one deciding node."""

    node: str
    stage: str
    rows_in: int
    kept: int
    rows_added: int
    merged: int
    # Reason -> rows, most first.
    dropped: Mapping[str, int]


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail with what is said about it."""

    uid: str
    caption: str
    # data: URI; empty if there is no picture (a failed download).
    src: str
    note: str = ""


@dataclass(frozen=True)
class PictureGrid:
    """Some of the pictures that share a fate."""

    node: str
    reason: str
    total: int
    pictures: list[Thumbnail]


@dataclass(frozen=True)
class DuplicateGroup:
    """A picture that stayed and copies of it that did not."""

    size: int
    survivor: Thumbnail
    copies: list[Thumbnail]


@dataclass(frozen=True)
class Histogram:
    """Distribution of a score over all rows that have it, and over those kept."""

    column: str
    node: str
    # Borders of the bins, one more than counts.
    edges: list[float]
    counts: list[int]
    kept: list[int]
    # (rule, value) of thresholds that a rule compares the column with.
    thresholds: list[tuple[str, float]]
    missing: int


@dataclass(frozen=True)
class ErrorCause:
    """Why rows could not be downloaded or decoded."""

    cause: str
    node: str
    count: int
    example: str


@dataclass(frozen=True)
class HostOutcome:
    """How one host did."""

    host: str
    succeeded: int
    failed: int
    main_cause: str


@dataclass(frozen=True)
class SplitOutcome:
    """Shards of one split."""

    split: str
    shards: int
    samples: int
    bytes: int


@dataclass(frozen=True)
class NodeTiming:
    """What a node cost when it was done."""

    node: str
    stage: str
    parts: int
    reused: int
    seconds: float
    rows_per_s: float
    fingerprint: str


class FaultFacts(TypedDict):
    """The same as `summary.json` has it, under the fault's name."""

    planted: int
    caught: int
    false_alarms: int
    caught_by: list[tuple[str, int]]


@dataclass(frozen=True)
class FaultTruth:
    """A planted fault: how many there were, were caught, and were accused in error."""

    fault: str
    planted: int
    caught: int
    false_alarms: int
    # (reason, rows) by which they were caught.
    caught_by: Sequence[tuple[str, int]]

    @property
    def recall(self) -> float:
        """Caught of planted."""
        return self.caught / self.planted if self.planted else 1.0

    @property
    def precision(self) -> float:
        """Rightly accused of accused."""
        accused = self.caught + self.false_alarms
        return self.caught / accused if accused else 1.0


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows."""

    title: str
    source: str
    out: str
    command: str
    seconds: float
    peak_rss_mb: float
    rows_in: int
    kept: int
    dropped: int
    merged: int
    ledger_ok: bool
    warnings: list[str] = field(default_factory=list)
    funnel: list[FunnelStep] = field(default_factory=list)
    rules: list[RuleOutcome] = field(default_factory=list)
    quantiles: list[tuple[str, float]] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    kept_pictures: list[Thumbnail] = field(default_factory=list)
    dropped_pictures: list[PictureGrid] = field(default_factory=list)
    duplicate_groups: list[DuplicateGroup] = field(default_factory=list)
    errors: list[ErrorCause] = field(default_factory=list)
    hosts: list[HostOutcome] = field(default_factory=list)
    shards: list[SplitOutcome] = field(default_factory=list)
    # Of a run to which lists were added.
    lists: list[ListOutcome] = field(default_factory=list)
    nodes: list[NodeTiming] = field(default_factory=list)
    truth: list[FaultTruth] = field(default_factory=list)
    wrong_caption_auc: float | None = None
    model: ModelReport | None = None
    corpus: list[CorpusTable] = field(default_factory=list)
    environment: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rows_all(self) -> int:
        """Rows that came in, and that were made on the way, such as the clips of a video."""
        return self.rows_in + sum(step.rows_added for step in self.funnel)

    @property
    def kept_share(self) -> float:
        """Kept of all rows, 0..1."""
        return self.kept / self.rows_all if self.rows_all else 0.0

    @property
    def whence(self) -> str:
        """Of rows that were made on the way, in words; nothing if there are none."""
        added = self.rows_all - self.rows_in
        return f"{self.rows_in:,} came in, {added:,} were made on the way" if added else ""


@dataclass(frozen=True)
class _Bar:
    """One bin of a histogram, in pixels of its drawing."""

    x: float
    width: float
    all_y: float
    all_height: float
    kept_y: float
    kept_height: float
    label: str


_WIDTH, _HEIGHT = 300.0, 96.0


def histogram_bars(histogram: Histogram) -> list[_Bar]:
    """Bins as rectangles in a drawing of 300 x 96; heights are linear."""
    most = max(histogram.counts, default=0) or 1
    step = _WIDTH / max(len(histogram.counts), 1)
    bars = []
    for i, (count, kept) in enumerate(zip(histogram.counts, histogram.kept, strict=True)):
        height, inner = _HEIGHT * count / most, _HEIGHT * kept / most
        low, high = histogram.edges[i], histogram.edges[i + 1]
        bars.append(
            _Bar(
                x=i * step,
                width=max(step - 1, 0.5),
                all_y=_HEIGHT - height,
                all_height=height,
                kept_y=_HEIGHT - inner,
                kept_height=inner,
                label=f"{low:.4g} to {high:.4g}: {count:,} rows, {kept:,} kept",
            )
        )
    return bars


def threshold_x(histogram: Histogram, value: float) -> float | None:
    """Where a threshold lies in the drawing; None if outside."""
    low, high = histogram.edges[0], histogram.edges[-1]
    if not low <= value <= high or high <= low:
        return None
    return _WIDTH * (value - low) / (high - low)


def render_html(data: ReportData) -> str:
    """The report as one self-contained page: no script, nothing loaded from anywhere."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["n"] = lambda value: f"{value:,}"
    environment.filters["pct"] = _percent
    environment.filters["num"] = lambda value: f"{value:,.4g}"
    environment.filters["mb"] = lambda value: f"{value / 1e6:,.1f} MB"
    environment.filters["clock"] = clock
    environment.globals.update(bars=histogram_bars, threshold_x=threshold_x, round=round)
    text = (
        importlib.resources.files("gristmill.dags.reports").joinpath("report.html.j2").read_text()
    )
    return environment.from_string(text).render(data=data)


def _percent(share: float) -> str:
    return f"{share:.2%}" if 0 < share < 0.01 else f"{share:.1%}"


def render_terminal(data: ReportData, where: str) -> Group:
    """Headline, funnel, rules' warnings and where the report lies."""
    share = "; ".join(filter(None, (_percent(data.kept_share), data.whence)))
    pieces: list[RenderableType] = [
        Text.assemble(
            (f"{data.kept:,}", "bold"),
            f" of {data.rows_all:,} rows kept ({share}) in {clock(data.seconds)}; the ledger ",
            ("adds up", "green") if data.ledger_ok else ("DOES NOT ADD UP", "bold red"),
        )
    ]
    table = Table(box=None, pad_edge=False)
    table.add_column("node", style="bold", no_wrap=True)
    table.add_column("rows in", justify="right")
    table.add_column("kept", justify="right")
    table.add_column("dropped, by reason", overflow="fold")
    for step in data.funnel:
        reasons = [f"{reason} {count:,}" for reason, count in list(step.dropped.items())[:8]]
        if len(step.dropped) > 8:
            reasons.append(f"and {len(step.dropped) - 8} more")
        if step.merged:
            reasons.append(f"merged {step.merged:,}")
        table.add_row(step.node, f"{step.rows_in:,}", f"{step.kept:,}", Text(", ".join(reasons)))
    pieces.append(table)
    if data.truth:
        pieces.append(_truth_table(data))
    if data.shards:
        shards = ", ".join(
            f"{s.split}: {s.samples:,} samples in {s.shards} shards" for s in data.shards
        )
        pieces.append(Text(shards))
    for one in data.lists:
        kept = f"{one.kept:,} of {one.rows:,} rows kept"
        pieces.append(Text(f"list {one.name}: {kept}, shards {one.shards}"))
    pieces += [Text(f"warning: {warning}", style="yellow") for warning in data.warnings]
    pieces.append(Text(f"report: {where}"))
    return Group(*pieces)


def _truth_table(data: ReportData) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("planted fault", style="bold", overflow="fold")
    for name in ("planted", "caught", "false alarms", "recall", "precision"):
        table.add_column(name, justify="right")
    for fault in data.truth:
        table.add_row(
            fault.fault,
            f"{fault.planted:,}",
            f"{fault.caught:,}",
            f"{fault.false_alarms:,}",
            f"{fault.recall:.3f}",
            f"{fault.precision:.3f}",
        )
    if data.wrong_caption_auc is not None:
        table.add_row(
            "what does not match, AUC of CLIP", "", "", "", f"{data.wrong_caption_auc:.3f}", ""
        )
    return table
