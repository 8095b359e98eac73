"""Samples that are there are not replaced by nothing, as long as they can be believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_run import advance, lay, toy_dag

from gristmill.dags.engine.nothing_kept import refuse_nothing
from gristmill.errors import NothingKeptError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.sealed import write_sealed
from gristmill.pipelines.shards.shards import Shards

NOTHING = Keep(rules={"all": "length >= 0"})


def test_only_samples_that_are_there_hold_nothing_back(tmp_path: Path) -> None:
    layout = lay(tmp_path / "some", toy_dag(shards=Shards(val_share=0.0)))
    parts = advance(layout)
    none = lay(tmp_path / "none", toy_dag(keep=NOTHING, shards=Shards(val_share=0.0)))
    advance(none)
    refuse_nothing(none, "shards", parts)
    for run in (layout, none):
        shards = {"train": {"shards": [{"samples": 5}, {"samples": 4}]}}
        write_sealed(run.folder, "shards/manifest.json", {"splits": shards})
    refuse_nothing(layout, "shards", parts)
    with pytest.raises(NothingKeptError, match=r"the 9 samples .* stay as they are"):
        refuse_nothing(none, "shards", parts)
    Path(none.folder.join("shards/manifest.json")).write_bytes(b"cut")
    refuse_nothing(none, "shards", parts)
