"""Pictures that were only walked over are said to be, from the sample to the card."""

from __future__ import annotations

import json
from pathlib import Path

from counted_runs import draw
from faulty_web import encoded

from gristmill.dags.dag_yaml import load_dag
from gristmill.dags.engine.execute import RunOptions, execute
from gristmill.dags.engine.progress import make_progress
from gristmill.dags.engine.summary import RunSummary
from gristmill.dags.graph import Dag
from gristmill.dags.runs.verify import verify_run
from gristmill.pipelines.shards.reader import ShardSet


def dag(pictures: Path, verify: str) -> Dag:
    return load_dag(
        f"""
dag: walked
nodes:
  source: {{stage: Source, path: "{pictures}"}}
  download: {{stage: Download, inputs: [source], reencode: never, mixed: true, verify: {verify}}}
  image: {{stage: ImageFacts, inputs: [download]}}
  keep: {{stage: Keep, inputs: [image], rules: {{}}}}
  shards: {{stage: Shards, inputs: [keep], val_share: 0.0}}
""",
        "test",
    )


def run(pictures: Path, verify: str, out: Path) -> RunSummary:
    with make_progress(None, True, log=None) as progress:
        return execute(dag(pictures, verify), str(out), RunOptions(runner="local"), progress)


def test_samples_manifest_and_card_say_how_pictures_were_looked_at(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    draw(pictures, 3)
    (pictures / "0009.bmp").write_bytes(encoded(".bmp"))
    (pictures / "0009.txt").write_text("a format that is brought into another")
    # Sound by its structure, and the coded pixels are none: a later node sees it.
    data = bytearray(encoded(".webp"))
    data[-400:-8] = bytes(392)
    (pictures / "0010.webp").write_bytes(bytes(data))
    (pictures / "0010.txt").write_text("a picture whose pixels are gone")
    out = tmp_path / "run"
    dropped = run(pictures, "structure", out)["dropped"]
    assert dropped == {"image": {"poisoned": 1}}
    assert verify_run(str(out)) == []
    shards = out / "shards"
    found = [sample.columns["verified"] for sample in ShardSet(str(shards))]
    counts = {name: found.count(name) for name in set(found)}
    assert counts["decoded"] == 1 and counts["structure"] == 3
    assert json.loads((shards / "manifest.json").read_text())["verified"] == counts
    assert f"| structure | {counts['structure']} |" in (shards / "DATASET_CARD.md").read_text()

    plain = tmp_path / "plain"
    dropped = run(pictures, "decode", plain)["dropped"]
    assert dropped == {"download": {"not decodable": 1}}
    manifest = json.loads((plain / "shards" / "manifest.json").read_text())
    assert "verified" not in manifest
    samples = {sample.uid: sample.image for sample in ShardSet(str(shards))}
    assert samples == {sample.uid: sample.image for sample in ShardSet(str(plain / "shards"))}
