"""Hugging Face datasets, streaming, tars and Parquet."""

import datasets
from common import PARQUETS, TARS, files, report, samples

read = {}
for kind, product, ending, column in (
    ("webdataset", TARS, "tar", "jpg"), ("parquet", PARQUETS, "parquet", "image"),
):  # fmt: skip
    found = datasets.load_dataset(
        kind, data_files={"train": files(product, ending)}, split="train", streaming=True
    )
    rows = list(found)
    assert len(rows) == samples(product)
    assert all(row[column].size == (16, 12) for row in rows)
    read[kind] = len(rows)
report(version=datasets.__version__, **read)
