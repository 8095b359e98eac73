"""Polars: metadata of tars, and Parquet shards with their pictures."""

import io

import PIL.Image
import polars
from common import PARQUETS, TARS, report, samples

facts = polars.scan_parquet(str(TARS / "train" / "metadata" / "*.parquet"))
assert facts.select(polars.col("uid").n_unique()).collect().item() == samples(TARS)
rows = polars.read_parquet(str(PARQUETS / "train" / "*.parquet"))
assert len(rows) == samples(PARQUETS)
for data in rows["image"].struct.field("bytes"):
    assert PIL.Image.open(io.BytesIO(data)).size == (16, 12)
report(version=polars.__version__, read=len(rows))
