"""What a Write node could not write is found beside what it saved, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from run_damage import flip
from toy_run import advance, lay, toy_dag

from gristmill.dags.engine.product_losses import product_losses
from gristmill.dags.engine.workspace import node_workspace
from gristmill.errors import StorageError
from gristmill.pipelines.patience import PATIENCE
from gristmill.pipelines.shards.files import LOST_SCHEMA
from gristmill.pipelines.shards.shards import Shards


def lost(*uids: str) -> pa.Table:
    rows = [{"uid": uid, "reason": "frames not decodable", "value": "why"} for uid in uids]
    return pa.Table.from_pylist(rows, LOST_SCHEMA)


def test_losses_of_all_shards_of_a_node_come_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    layout = lay(tmp_path, toy_dag(shards=Shards(val_share=0.0), second=Shards(val_share=0.0)))
    parts = advance(layout, "rows")
    assert product_losses(layout) == {}
    with node_workspace(layout, "shards", parts) as workspace:
        workspace.save_table("lost/00000000", lost("a"))
        workspace.save_table("lost/00000002", lost("b", "c"))
        workspace.save_table("written/00000000", lost("no loss"))
        path = Path(workspace.folder.join("saved/lost/00000002.parquet"))
    found = product_losses(layout)
    assert list(found) == ["shards"], "the other lost none"
    assert found["shards"]["uid"].to_pylist() == ["a", "b", "c"]
    assert found["shards"].schema == LOST_SCHEMA
    flip(path)
    with pytest.raises(StorageError, match="another digest"):
        product_losses(layout)
