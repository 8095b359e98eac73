"""What a stage says of copies: which image stands for the group, what the group is, its size."""

from __future__ import annotations

import pyarrow as pa

from gristmill.pipelines.schema import ColumnFacts

DUPLICATE_OF = pa.field("duplicate_of", pa.string())
DUPLICATE_GROUP = pa.field("duplicate_group", pa.string())
DUPLICATE_GROUP_SIZE = pa.field("duplicate_group_size", pa.int32())


def duplicate_facts(what: str) -> dict[str, ColumnFacts]:
    """Meanings of the three columns in a corpus of `what`: image, clip."""
    return {
        DUPLICATE_OF.name: ColumnFacts(
            f"image_id of the survivor; null for survivors and single {what}s."
        ),
        DUPLICATE_GROUP.name: ColumnFacts(f"image_id of the group's survivor, for every {what}."),
        DUPLICATE_GROUP_SIZE.name: group_size_facts(what),
    }


def group_size_facts(what: str) -> ColumnFacts:
    """Meaning of a column that counts a group of `what`."""
    return ColumnFacts(f"{what.capitalize()}s in the group.", f"{what}s", low=1)
