"""Which sample comes after which, and where a shard ends: by digests, so that neither parts nor
workers decide.

The shuffle goes over all rows. Of a source's own rows it moves blocks of neighbours: their stored
bytes lie side by side, so that a shard is read by tens of samples and not by the sample. Rows that
were made on the way (the clips of a video), which may be hundreds of one, each go their own way.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import xxhash

# Blocks of neighbours in a shard that is closed by its number of samples, at least.
BLOCKS = 128
ORDER = pa.schema([pa.field("shuffle_key", pa.uint64()), pa.field("is_val", pa.bool_())])
"""What `with_order` adds: rows come in the order of their key, those of one by uid."""
# What tells neighbours.
ORIGIN = ("row", "parent_uid")


def with_order(
    reader: pa.RecordBatchReader, *, seed: int, together: int, by_group: bool, val_share: float
) -> pa.RecordBatchReader:
    """Batches with the columns `ORDER`: by blocks of `together` rows of the source, where these are
    more than one; `val_share` of the groups, or with `by_group` false of the bytes, go to val."""
    names = reader.schema.names
    schema = pa.schema([*reader.schema, *ORDER])
    groups = [name for name in ("split_group", "duplicate_group") if name in names]
    group = groups[0] if groups and by_group else "sha256"
    border = int(val_share * 2**64)

    def ordered() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            uids = batch.column("uid").to_pylist()
            things = _neighbours(batch, together) if together > 1 and "row" in names else uids
            keys = [xxhash.xxh3_64_intdigest(one.encode(), seed=seed) for one in things]
            is_val = [
                xxhash.xxh3_64_intdigest(f"split:{one or uid}".encode()) < border
                for one, uid in zip(batch.column(group).to_pylist(), uids, strict=True)
            ]
            columns = [*batch.columns, pa.array(keys, pa.uint64()), pa.array(is_val)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, ordered())


def _neighbours(batch: pa.RecordBatch, together: int) -> list[str]:
    """What decides the place of each row: its block, or itself if it was made of another."""
    uids, rows = batch.column("uid").to_pylist(), batch.column("row").to_pylist()
    made = (
        batch.column("parent_uid").is_valid().to_pylist()
        if "parent_uid" in batch.schema.names
        else [False] * len(rows)
    )
    return [
        uid if alone else f"rows {row // together}"
        for uid, row, alone in zip(uids, rows, made, strict=True)
    ]


def cut_shards(
    reader: pa.RecordBatchReader, samples_per_shard: int, bytes_per_shard: int
) -> Iterator[pa.Table]:
    """Tables of one shard each, of rows in their order, which have `blob_size`."""
    pending: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in reader:
        start = 0
        lengths = batch.column("blob_size").to_pylist()
        for i, length in enumerate(lengths):
            full = rows + 1 > samples_per_shard or size + length > bytes_per_shard
            if rows and full:
                pending.append(batch.slice(start, i - start))
                yield pa.Table.from_batches(pending)
                pending, start, rows, size = [], i, 0, 0
            rows, size = rows + 1, size + length
        pending.append(batch.slice(start))
    if rows:
        yield pa.Table.from_batches(pending)
