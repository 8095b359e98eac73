"""DataComp's rule: a uid is 128 bits of hex; a subset is a sorted array of pairs of uint64, in
which each sample of a shard is looked up."""

import numpy as np
import pyarrow.parquet as pq
from common import TARS, report, samples


def as_pair(uid: str) -> tuple[int, int]:
    """The two halves."""
    return int(uid[:16], 16), int(uid[16:32], 16)


uids = [
    uid
    for path in sorted((TARS / "train" / "metadata").glob("*.parquet"))
    for uid in pq.read_table(path, columns=["uid"])["uid"].to_pylist()
]
assert len(uids) == samples(TARS) and all(len(uid) == 32 for uid in uids)
subset = np.sort(np.array([as_pair(uid) for uid in uids[::2]], np.dtype("u8,u8")))
np.save("subset.npy", subset)
loaded = np.load("subset.npy", mmap_mode="r")
kept = 0
for uid in uids:
    key = np.array(as_pair(uid), loaded.dtype)
    at = np.searchsorted(loaded, key)
    kept += bool(at < len(loaded) and loaded[at] == key)
assert kept == len(uids[::2])
report(looked_up=len(uids), kept=kept)
