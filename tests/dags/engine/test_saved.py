"""What a phase saved is what the next one loads, or it is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from run_damage import flip
from toy_run import advance, lay

from gristmill.dags.engine.rows import node_workspace
from gristmill.dags.engine.saved import fact_name
from gristmill.errors import StorageError
from gristmill.pipelines.patience import PATIENCE


def test_a_saved_array_that_was_changed_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    layout = lay(tmp_path)
    parts = advance(layout, "rows")
    with node_workspace(layout, "keep", parts) as workspace:
        workspace.save("a", np.arange(5))
        assert workspace.load("a").tolist() == [0, 1, 2, 3, 4]
        path = Path(workspace.folder.join("saved/a.npy"))
        flip(path)
        with pytest.raises(StorageError, match="another digest"):
            workspace.load("a")
        flip(path)
        # Of a time before there were facts.
        Path(workspace.folder.join(fact_name("saved/a.npy"))).unlink()
        assert len(workspace.load("a")) == 5
        path.write_bytes(b"no array")
        with pytest.raises(StorageError, match="is no array"):
            workspace.load("a")
