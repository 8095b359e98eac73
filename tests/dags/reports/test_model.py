"""What a report says of a model trained on the run."""

from __future__ import annotations

import json
from pathlib import Path

from gristmill.dags.reports.model import gather_model
from gristmill.pipelines.storage import Folder

SCORES = {
    "picture_exact": 0.9, "picture_exact_shuffled": 0.1, "codec_ceiling": 1.0, "caption_exact": 0.8,
    "answer_exact_without_existence": 0.7, "answer_exact": 0.6, "cycle_exact": 0.5, "steps": 400,
    "scenes": 8, "held_out": {"picture_exact": 0.4, "caption_exact": 0.3},
}  # fmt: skip


def test_a_run_without_a_model_says_nothing(tmp_path: Path) -> None:
    assert gather_model(Folder(str(tmp_path))) is None


def test_scores_curves_and_pictures_are_read(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    shown = {"words": "a red star", "src": "data:", "right": True}
    folder.write_json("evaluation.json", SCORES)
    folder.write_json("model/showcase.json", {"drawn": [shown], "described": []})
    lines = [
        {"step": i, "tokens_per_s": 100 + i, "loss_codes": 4 / i, "loss_text": None, "rate": 0.1}
        for i in range(1, 401)
    ]
    folder.write_bytes("model/log.jsonl", "\n".join(map(json.dumps, lines)).encode())
    found = gather_model(folder)
    assert found is not None and found.steps == 400 and found.drawn[0].words == "a red star"
    assert found.tokens_per_s == 301
    assert dict(found.scores)["pictures with a pair it never saw together"] == 0.4
    # A loss that was never there has no curve; others have no more points than are seen.
    assert [curve.title for curve in found.curves] == ["loss of image codes", "learning rate"]
    assert found.curves[0].first == 4 and found.curves[0].last == 0.01
    assert len(found.curves[0].points.split()) <= 200
