"""What a node sees of a run with several lists: which parts are judged, what was found before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from toy_run import advance
from two_lists import two_lists

from gristmill.dags.engine.workspace import node_workspace


def test_what_was_judged_before_and_what_is_judged_now(tmp_path: Path) -> None:
    layout = two_lists(tmp_path)
    advance(layout, "rows", "draw", "bright", "length")
    with node_workspace(layout.before, "keep", 3) as workspace:
        assert (workspace.first_part, workspace.before) == (0, None)
        workspace.save("thing", np.arange(3))
    with node_workspace(layout, "keep", 5) as workspace:
        assert (workspace.first_part, workspace.parts) == (3, 5)
        assert workspace.lists == ["ToyRows", "Later"]
        assert workspace.before is not None and workspace.before.parts == 3
        workspace.save("thing", np.arange(5))
        assert len(workspace.load("thing")) == 5 and len(workspace.before.load("thing")) == 3
        found = workspace.judged(0, ["verdict"])
        assert found["kept"].to_pylist() == [one == "kept" for one in found["verdict"].to_pylist()]
        assert len(found) == len(workspace.rows(0, ["uid"]))
