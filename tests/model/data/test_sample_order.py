"""The order of samples: every one once an epoch, and what it costs to look one up."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from gristmill.model.data.sample_order import Rows, SampleOrder, as_numbers


def test_each_epoch_has_every_sample_once_in_another_order() -> None:
    rows: list[Rows] = [7, np.array([1, 4, 5]), np.arange(0), 5]
    order = SampleOrder(rows, seed=3, window=2)
    epochs = [[order[e * 15 + i] for i in range(15)] for e in range(3)]
    every = sorted((shard, int(row)) for shard, part in enumerate(rows) for row in as_numbers(part))
    for epoch in epochs:
        assert sorted(epoch) == every
    assert epochs[0] != epochs[1] != epochs[2]
    assert [SampleOrder(rows, seed=3, window=2)[i] for i in range(15)] == epochs[0]


def test_all_rows_are_no_numbers_in_memory() -> None:
    """A hundred million samples in ten thousand shards are ten thousand counts, here and in what
    is sent to a worker; a look-up is a search, and one window's permutation."""
    order = SampleOrder([10_000] * 10_000, seed=0)
    assert order.size == 10**8
    places = [order[number] for number in (0, 1, 10**8 - 1, 10**8, 123_456_789)]
    assert len(set(places)) == 5 and max(shard for shard, _ in places) < 10_000
    sent = pickle.dumps(order)
    assert len(sent) < 100_000
    assert [pickle.loads(sent)[number] for number in (0, 1)] == places[:2]


def test_several_sources_in_turn_do_not_shuffle_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps its own windows: with more sources than one cache held, every look-up shuffled."""
    shuffles = []
    own = SampleOrder._order_window

    def counting(self: SampleOrder, epoch: int, window: int) -> object:
        shuffles.append(window)
        return own(self, epoch, window)

    monkeypatch.setattr(SampleOrder, "_order_window", counting)
    orders = [SampleOrder([50] * 8, seed=seed) for seed in range(9)]
    for number in range(100):
        for order in orders:
            order[number]
    assert len(shuffles) == len(orders)
