"""The two scales of the demo: what each is made of, and that one is a fraction of the other."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from gristmill.dags.demos.announce import Steps
from gristmill.dags.demos.images import draw_web, free_port
from gristmill.dags.demos.scale import FULL, SMALL, Scale, choose_scale
from gristmill.dags.demos.web import PLANTED, build_web
from gristmill.errors import ConfigurationError
from gristmill.model.network.configurations import find_size, flops_per_token
from gristmill.model.shapes.parser import read_caption
from gristmill.model.shapes.suite import suite_scenes


def test_a_demo_is_small_unless_asked_and_numbers_may_be_given() -> None:
    assert choose_scale(full=False) is not FULL and choose_scale(full=False) == SMALL
    assert choose_scale(full=True) == FULL
    given = choose_scale(full=True, scenes=300, steps=0)
    assert (given.scenes, given.steps, given.objects) == (300, 0, FULL.objects)


def test_the_small_demo_is_a_fraction_of_the_full() -> None:
    def operations(scale: Scale) -> float:
        config = find_size(scale.size)(1000 + scale.codes)
        positions = scale.steps * scale.rows_per_step * scale.row_length
        return positions * flops_per_token(config, scale.row_length)

    # Small matrices take longer than their operations say, hence far below 15 %.
    assert operations(SMALL) < 0.06 * operations(FULL)
    assert SMALL.scenes <= FULL.scenes / 8
    assert SMALL.trusted * SMALL.filter_steps < 0.15 * FULL.trusted * FULL.filter_steps
    assert sum(SMALL.seconds) < 0.15 * sum(FULL.seconds)


def test_a_world_of_one_object_plants_every_fault_and_says_one_object(tmp_path: Path) -> None:
    found = build_web(str(tmp_path), scenes=24, seed=1, port=free_port(), objects=1)
    truth = pq.read_table(found.truth)["fault"].to_pylist()
    assert set(PLANTED) <= set(truth)
    read = [read_caption(text) for text in pq.read_table(found.urls)["caption"].to_pylist()]
    # Boilerplate says nothing; all else, wrong captions too, tells of one object.
    said = [caption for caption in read if caption is not None]
    assert len(said) > 24 and {len(caption.names) for caption in said} == {1}
    seen, held_out = suite_scenes(20, 0, 1)
    assert {len(scene.things) for scene in [*seen, *held_out]} == {1}


def test_a_web_drawn_before_the_scales_is_taken_up_and_another_refused(tmp_path: Path) -> None:
    says = Steps(Console(quiet=True), (1.0, 1.0))
    (tmp_path / "web.json").write_text('{"scenes": 16000, "seed": 0, "port": 4711}')
    assert draw_web(str(tmp_path), FULL, 0, says).port == 4711
    with pytest.raises(ConfigurationError, match=r"holds another demo \(scenes 16000, not .*--out"):
        draw_web(str(tmp_path), SMALL, 0, says)
