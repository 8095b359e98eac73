"""DuckDB on metadata and Parquet shards."""

import duckdb
from common import PARQUETS, TARS, report, samples

facts = duckdb.sql(
    f"SELECT count(DISTINCT uid), count(*) FROM read_parquet('{TARS}/train/metadata/*.parquet')"
).fetchall()
assert facts == [(samples(TARS), samples(TARS))]
shards = f"read_parquet('{PARQUETS}/train/*.parquet')"
rows = duckdb.sql(f"SELECT count(*), min(octet_length(image.bytes)) FROM {shards}").fetchall()
assert rows[0][0] == samples(PARQUETS) and rows[0][1] > 100
report(version=duckdb.__version__, read=rows[0][0])
