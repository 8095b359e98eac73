"""mlcroissant: validate the description, and load every record set."""

from importlib.metadata import version

import mlcroissant
from common import PARQUETS, TARS, report, samples

read = {}
for name, product in (("tars", TARS), ("parquets", PARQUETS)):
    dataset = mlcroissant.Dataset(jsonld=str(product / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors, issues.errors
    rows = sum(
        len(list(dataset.records(record_set=one.id)))
        for one in dataset.metadata.record_sets
        if one.id.startswith("train-")
    )
    assert rows == samples(product), (rows, samples(product))
    read[name] = rows
report(version=version("mlcroissant"), **read)
