"""wids: random access by the shard index."""

import wids
from common import TARS, report, samples

found = wids.ShardListDataset(str(TARS / "train" / "shardindex.json"), keep=True)
assert len(found) == samples(TARS)
keys = {found[number]["__key__"] for number in reversed(range(len(found)))}
assert len(keys) == len(found)
assert found[3][".json"]["uid"] == found[3]["__key__"] and found[3][".txt"]
report(read=len(found))
