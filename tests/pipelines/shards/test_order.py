"""Neighbours of the source stay together, everything else is shuffled, and nothing else decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gristmill.pipelines.schema import digest_fields
from gristmill.pipelines.shards.order import ORDER, cut_shards, with_order

SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("parent_uid", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("blob_size", pa.int64()),
    ]
)


def rows(count: int, *, of: int = 1) -> list[dict[str, Any]]:
    """Rows of a source, or `of` rows made of each."""
    return [
        {
            "uid": digest_fields(str(i)),
            "row": i // of,
            "parent_uid": digest_fields("parent", str(i // of)) if of > 1 else None,
            "sha256": digest_fields("sha", str(i)),
            "blob_size": 10,
        }
        for i in range(count)
    ]


def shards(found: list[dict[str, Any]], samples: int, **fields: Any) -> list[pa.Table]:
    """What lies in each shard."""
    options = {"seed": 0, "together": 1, "by_group": True, "val_share": 0.0, **fields}
    batches = pa.Table.from_pylist(found, SCHEMA).to_batches(max_chunksize=37)
    reader = with_order(pa.RecordBatchReader.from_batches(SCHEMA, batches), **options)
    table = reader.read_all().sort_by([("shuffle_key", "ascending"), ("uid", "ascending")])
    size = options.pop("bytes", 10**9)
    cut = pa.RecordBatchReader.from_batches(table.schema, table.to_batches(max_chunksize=41))
    return [*cut_shards(cut, samples, size)]


def reads(shard: pa.Table) -> int:
    """In how many pieces its rows lie in the source."""
    return 1 + int((np.diff(np.sort(shard["row"].to_numpy())) > 1).sum())


def test_a_shard_is_read_in_few_pieces_and_holds_of_everything() -> None:
    found = shards(rows(20_000), 4096, together=32)
    assert [len(one) for one in found] == [4096] * 4 + [20_000 - 4 * 4096]
    for shard in found:
        assert reads(shard) <= 0.1 * len(shard)
        # From everywhere: each tenth of the source has its share.
        tenths = np.bincount(shard["row"].to_numpy() // 2000, minlength=10)
        assert tenths.min() > 0.3 * len(shard) / 10
    assert reads(shards(rows(20_000), 4096)[0]) > 0.7 * 4096


def test_what_was_made_of_one_row_is_spread() -> None:
    found = shards(rows(2000, of=100), 200, together=32)
    assert all(len(set(one["row"].to_pylist())) == 20 for one in found), "of all videos"


@pytest.mark.parametrize("together", [1, 8])
def test_neither_batches_nor_arrival_decide(together: int) -> None:
    found = rows(300)
    mixed = [found[i] for i in np.random.default_rng(0).permutation(300)]
    first, other = (shards(one, 64, together=together) for one in (found, mixed))
    assert [one["uid"].to_pylist() for one in first] == [one["uid"].to_pylist() for one in other]
    again = shards(found, 64, together=together, seed=1)
    assert [one["uid"].to_pylist() for one in first] != [one["uid"].to_pylist() for one in again]
    assert ORDER.names == first[0].column_names[-2:]


def test_neighbours_are_on_both_sides_of_the_split() -> None:
    (shard,) = shards(rows(1000), 1000, together=8, val_share=0.2)
    blocks = shard["row"].to_numpy()[shard["is_val"].to_numpy(zero_copy_only=False)] // 8
    assert 150 < len(blocks) < 250 and len(set(blocks.tolist())) > 90
