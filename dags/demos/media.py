"""What the demos of videos, documents and edits share: a folder of planted truth, a run, a
judgement."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np
from rich.console import Console

from gristmill.dags.demos.announce import Steps
from gristmill.dags.demos.images import CODEC, filter_network, free_port
from gristmill.dags.demos.scale import FULL
from gristmill.dags.demos.truth import DemoSummary, FaultCounts, Judgement, area_under_curve
from gristmill.dags.demos.web_server import HOST, Route, Web, WebServer
from gristmill.dags.engine.cut_record import parts_done
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.rows import RowReader
from gristmill.dags.engine.run_folder import require_run_folder
from gristmill.dags.graph import Dag
from gristmill.dags.runs.plan import open_run
from gristmill.dags.session import write_report
from gristmill.errors import ConfigurationError
from gristmill.pipelines.out_folder import require_writable
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.storage import Folder

CLEAN = "clean"


@dataclass
class Planted:
    """One thing that was planted: a video, a picture of a document, a pair."""

    # Row of the source, and the address where that tells it from others of the row.
    row: int
    fault: str
    url: str | None = None
    # What it is a copy of, by row; its own row otherwise.
    group: int = -1
    # Frames at which shots begin, of a video whose cuts are known.
    cuts: list[int] = field(default_factory=list)


@dataclass
class World:
    """What a demo starts from."""

    source: str
    planted: list[Planted]
    # Path -> how the server answers; files lie in `site/`.
    routes: dict[str, Route]


Outcomes = dict[tuple[int, str | None], list[str | None]]
"""(row, address) -> the reasons for which the rows that it grew into went; None: kept."""
Scores = dict[tuple[int, str | None], float]


@dataclass(frozen=True)
class MediaDemo:
    """One of the demos."""

    # Draws the world in a folder, for an address of the server, a seed, and a share of its size.
    build: Callable[[str, str, int, float], World]
    # The Dag for a source, the filter network's folder, and the server's "host:port".
    dag: Callable[[str, str, str], Dag]
    # Fault -> reasons that count as catching it.
    caught_as: Mapping[str, Sequence[str]]
    # Node whose columns are read for scores, and the score that wrong captions must be low in.
    scored: str
    score: str
    wrong: str


def run_media_demo(
    name: str, demo: MediaDemo, out: str, *, seed: int, runner: str, plain: bool, command: str
) -> DemoSummary:
    """Draw the world, train a filter network, curate, judge, report; the same command goes on where
    it stopped. `summary.json` gains "truth" and what `judge` found beside."""
    require_run_folder(out)
    require_writable(out, what="run")
    start = time.perf_counter()
    console = Console()
    folder = os.path.join(out, "web")
    found, world = _world(folder, demo, seed, name, console)
    network = os.path.join(out, "filter-network")
    filter_network(network, seed, Steps(console, ()), FULL)
    dag = demo.dag(os.path.join(folder, world.source), network, f"{HOST}:{found.port}")
    with WebServer(found), make_progress(console, plain or None, log=Folder(out)) as progress:
        curated = execute(dag, out, RunOptions(runner=runner), progress)
    summary = cast(DemoSummary, {**curated, **judge(demo, world.planted, out)})
    summary["seconds"] = round(time.perf_counter() - start, 2)
    write_sealed(Folder(out), "summary.json", dict(summary))
    write_report(out, command=command, console=console)
    return summary


def _world(
    folder: str, demo: MediaDemo, seed: int, name: str, console: Console
) -> tuple[Web, World]:
    """Draw the world, once; a later run finds it under the same addresses."""
    path = os.path.join(folder, "world.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
        if facts["seed"] != seed:
            raise ConfigurationError(
                f"{folder} was drawn with --seed {facts['seed']}; give that, or another --out"
            )
        planted = [Planted(**one) for one in facts["planted"]]
        return Web(folder, facts["port"]), World(facts["source"], planted, {})
    console.print(f"drawing a little world for the {name} demo")
    os.makedirs(os.path.join(folder, "site"), exist_ok=True)
    port = free_port()
    world = demo.build(folder, f"http://{HOST}:{port}", seed, 1.0)
    with open(os.path.join(folder, "routes.json"), "w", encoding="utf-8") as file:
        json.dump(world.routes, file)
    facts = {"seed": seed, "port": port, "source": world.source}
    facts["planted"] = [asdict(one) for one in world.planted]
    with open(path, "w", encoding="utf-8") as file:
        json.dump(facts, file)
    return Web(folder, port), world


def common_settings(network: str) -> list[str]:
    """Settings that all demos have: the model that scores, and the codec."""
    codec = os.path.join(network, CODEC)
    return [f"clip.model=local-dir:{network}", f"tokens.images={codec}", "shards.val_share=0.1"]


def scaled(counts: Mapping[str, int], share: float) -> dict[str, int]:
    """Counts of a smaller world, at least one of each."""
    return {name: max(1, round(count * share)) for name, count in counts.items()}


# -- judgement ----------------------------------------------------------------------------------


def judge(demo: MediaDemo, planted: Sequence[Planted], out: str) -> Judgement:
    """{"truth": {fault: counts}, "wrong_caption_auc": float} of a finished run."""
    outcomes, scores, cuts = _read(demo, out)
    truth: dict[str, FaultCounts] = {}
    for fault in dict.fromkeys(one.fault for one in planted):
        if fault in demo.caught_as:
            truth[fault] = _judge_fault(fault, demo.caught_as[fault], planted, outcomes)
    truth |= _judge_cuts(planted, cuts)
    of = {
        kind: np.array(
            [
                score
                for one in planted
                if one.fault == kind and (score := scores.get((one.row, one.url))) is not None
            ],
            np.float64,
        )
        for kind in (CLEAN, demo.wrong)
    }
    area = area_under_curve(of[CLEAN], of[demo.wrong])
    return {"truth": truth, "wrong_caption_auc": round(area, 5)}


def _read(demo: MediaDemo, out: str) -> tuple[Outcomes, Scores, dict[int, list[int]]]:
    """Outcomes and best scores by row and address, and cuts by row."""
    layout = open_run(out)
    reader = RowReader(layout)
    outcomes: Outcomes = {}
    scores: Scores = {}
    cuts: dict[int, list[int]] = {}
    for part in range(parts_done(layout) or 0):
        for row in layout.folder.read_table(f"ledger/{part:06d}.parquet").to_pylist():
            outcomes.setdefault((row["row"], row["url"]), []).append(row["reason"])
            outcomes.setdefault((row["row"], None), []).append(row["reason"])
        for row in reader.entering(demo.scored, part, ["row", "url", demo.score]).to_pylist():
            value = row[demo.score]
            for key in ((row["row"], row["url"]), (row["row"], None)):
                if value is not None:
                    scores[key] = max(value, scores.get(key, value))
        if "clips" in layout.dag.nodes:
            for row in reader.entering("clips", part, ["row", "cuts"]).to_pylist():
                cuts[row["row"]] = row["cuts"]
    return outcomes, scores, cuts


def _judge_fault(
    fault: str, reasons: Sequence[str], planted: Sequence[Planted], outcomes: Outcomes
) -> FaultCounts:
    """Caught: something of it went for one of the reasons, or, of a copy, of what it copies. False
    alarms: clean things that went for them."""
    mine = [one for one in planted if one.fault == fault]
    copies = {one.group for one in planted if one.group >= 0}
    by: dict[str, int] = {}
    for one in mine:
        found = list(outcomes.get((one.row, one.url), []))
        if one.group >= 0:
            found += outcomes.get((one.group, None), [])
        hit = next((reason for reason in found if reason in reasons), None)
        if hit is not None:
            by[hit] = by.get(hit, 0) + 1
    false = sum(
        any(reason in reasons for reason in outcomes.get((one.row, one.url), []))
        for one in planted
        if one.fault == CLEAN and one.row not in copies
    )
    ordered = sorted(by.items(), key=lambda item: (-item[1], item[0]))
    return {
        "planted": len(mine),
        "caught": sum(by.values()),
        "false_alarms": false,
        "caught_by": [list(item) for item in ordered],
    }


def _judge_cuts(
    planted: Sequence[Planted], found: Mapping[int, list[int]]
) -> dict[str, FaultCounts]:
    """Cuts within a frame of where they were planted."""
    known = [one for one in planted if one.cuts and one.row in found]
    if not known:
        return {}
    caught = sum(
        any(abs(c - cut) <= 1 for c in found[one.row]) for one in known for cut in one.cuts
    )
    false = sum(all(abs(c - cut) > 1 for cut in one.cuts) for one in known for c in found[one.row])
    return {
        "cut between shots": {
            "planted": sum(len(one.cuts) for one in known),
            "caught": caught,
            "false_alarms": false,
            "caught_by": [["shots", caught]],
        }
    }
