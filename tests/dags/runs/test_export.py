"""Columns out of a run, and labels joined to its embeddings."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from run_world import ROWS, UNKNOWN

from gristmill.dags.runs.export import labelled_embeddings, read_columns
from gristmill.errors import ConfigurationError, GraphError, RunError


def columns(home: Path, *names: str) -> pa.Table:
    return pa.concat_tables(read_columns(str(home / "run"), names))


def test_columns_in_the_order_asked_for_with_uid_first(home: Path) -> None:
    found = columns(home, "caption", "brightness", "vector")
    assert found.column_names == ["uid", "caption", "brightness", "vector"]
    assert columns(home, "brightness", "uid", "brightness").column_names == ["uid", "brightness"]
    # All that enter Keep, also what it drops, each beside its own.
    light = dict(zip(found["caption"].to_pylist(), found["brightness"].to_pylist(), strict=True))
    assert len(light) == len(set(found["uid"].to_pylist())) == ROWS
    assert light[f"number {UNKNOWN}"] is None and light["number 0"] == 0
    assert light["number 4"] == pytest.approx(0.4)


def test_a_table_a_part(home: Path) -> None:
    assert [len(table) for table in read_columns(str(home / "run"), ["caption"])] == [4, 4, 4]


def test_a_misspelt_column_names_the_nearest(home: Path, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"'brigthness'.*did you mean 'brightness'"):
        columns(home, "caption", "brigthness")
    # What only follows Keep is not there yet.
    with pytest.raises(GraphError, match="verdict"):
        columns(home, "verdict")
    with pytest.raises(RunError, match="holds no run"):
        list(read_columns(str(tmp_path), ["caption"]))


def test_labels_find_their_embeddings(home: Path) -> None:
    found = columns(home, "caption")
    uids = dict(zip(found["caption"].to_pylist(), found["uid"].to_pylist(), strict=True))
    numbers = [11, 2, 5]
    labels = pa.table(
        {
            "uid": [*(uids[f"number {i}"] for i in numbers), "0" * 32],
            "good": [True, False, True, True],
        }
    )
    vectors, values = labelled_embeddings(labels, "good", str(home / "run"), "vector")
    # In the run's order; the uid that it lacks is left out.
    pairs = {
        tuple(vector): value for vector, value in zip(vectors.to_pylist(), values, strict=True)
    }
    assert pairs == {(11.0, 11.0): 1.0, (2.0, 2.0): 0.0, (5.0, 5.0): 1.0}


def test_labels_that_fit_no_row_are_refused(home: Path) -> None:
    out = str(home / "run")
    strangers = pa.table({"uid": ["0" * 32, "1" * 32], "good": [1, 0]})
    with pytest.raises(ConfigurationError, match="none of the 2 uids"):
        labelled_embeddings(strangers, "good", out, "vector")
    with pytest.raises(ConfigurationError, match=r"no column 'label'; there are: uid, good"):
        labelled_embeddings(strangers, "label", out, "vector")
    with pytest.raises(ConfigurationError, match="no column 'uid'"):
        labelled_embeddings(strangers.drop_columns(["uid"]), "good", out, "vector")
    with pytest.raises(GraphError, match="did you mean 'vector'"):
        labelled_embeddings(strangers, "good", out, "vectr")
