"""Histograms read from files are those of all values in memory, to the last digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gristmill.dags.reports import distributions
from gristmill.dags.reports.distributions import (
    ColumnFiles,
    count_bins,
    histogram_edges,
    order_statistics,
)

RNG = np.random.default_rng(0)
COLUMNS = {
    "normal": RNG.standard_normal(5000).astype(np.float32).round(5),
    # A far tail on either side.
    "tail": np.concatenate([RNG.uniform(-1, 1, 4996), [9e4, -9e4, 3e38, -1e-300]]),
    "whole": RNG.integers(-5, 6, 5000).astype(np.int32),
    "gaps": np.where(RNG.uniform(size=5000) < 0.3, np.nan, RNG.uniform(size=5000)),
    "constant": np.full(5000, 0.25, np.float32),
    "empty": np.full(5000, np.nan, np.float32),
}
KEPT = RNG.uniform(size=5000) < 0.4


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ColumnFiles:
    monkeypatch.setattr(distributions, "_PIECE", 700)
    table = pa.table(COLUMNS)
    found = ColumnFiles(str(tmp_path), table.schema)
    for low in range(0, 5000, 900):
        found.append(table.slice(low, 900), KEPT[low : low + 900])
    return found


def in_memory(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As it was done when all values were held."""
    values = values.astype(np.float64)
    there = np.isfinite(values)
    low, high = values[there].min(), values[there].max()
    near_low, near_high = np.quantile(values[there], [0.005, 0.995])
    width = near_high - near_low
    if width > 0 and high > near_high + width:
        high = near_high + width / 10
    if width > 0 and low < near_low - width:
        low = near_low - width / 10
    edges = np.linspace(low, high, 41)
    inside = np.clip(values, low, high)
    return (
        edges,
        np.histogram(inside[there], edges)[0],
        np.histogram(inside[there & KEPT], edges)[0],
    )


@pytest.mark.parametrize("name", ["normal", "tail", "whole", "gaps"])
def test_bins_are_those_of_all_values_in_memory(files: ColumnFiles, name: str) -> None:
    edges, missing = histogram_edges(files, name, 40)
    counts, of_kept = count_bins(files, name, edges)
    expected = in_memory(COLUMNS[name])
    assert edges.tolist() == expected[0].tolist()
    assert counts.tolist() == expected[1].tolist() and of_kept.tolist() == expected[2].tolist()
    assert missing == int((~np.isfinite(COLUMNS[name])).sum())


def test_a_column_with_nothing_to_show_has_no_bins(files: ColumnFiles) -> None:
    assert len(histogram_edges(files, "constant", 40)[0]) == 0
    edges, missing = histogram_edges(files, "empty", 40)
    assert len(edges) == 0 and missing == 5000


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_order_statistics_are_exact(kind: type) -> None:
    values = np.concatenate(
        [RNG.standard_normal(900) * 10.0 ** RNG.integers(-30, 30, 900), [0.0, -0.0, 1e-45, 1, 1]]
    ).astype(kind)
    ranks = [0, 1, 450, 451, len(values) - 1]
    found = order_statistics(lambda: iter(np.array_split(values, 7)), ranks)
    assert found == np.sort(values)[ranks].astype(float).tolist()
