"""In how many documents a picture, or a copy of it, occurs: logos and banners occur in many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from gristmill.pipelines.database import open_database, read_stream
from gristmill.pipelines.schema import ColumnFacts
from gristmill.pipelines.stage import Global, Needs, Phase, Workspace


@dataclass(frozen=True, kw_only=True)
class RepeatedImages(Global):
    """Documents that a picture occurs in, itself or as a near copy (groups of `Duplicates`).

    OBELICS leaves out pictures that occur more than ten times (Laurençon et al. 2023).
    """

    def reads(self) -> tuple[str, ...]:
        """The group of a picture, and its document."""
        return ("duplicate_group", "document_uid")

    def writes(self) -> pa.Schema:
        """One whole number."""
        return pa.schema([pa.field("image_documents", pa.int32())])

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "image_documents": ColumnFacts(
                "Documents that the picture or a near copy of it occurs in.", "documents", low=1
            ),
        }

    def needs(self) -> Needs:
        """A hash table of groups."""
        return Needs(memory_gb=1.0)

    def phases(self) -> tuple[Phase, ...]:
        """One count over all parts."""
        return (Phase(name="count", count=lambda _: 1, work=self._count),)

    def _count(self, workspace: Workspace, _: int) -> None:
        with open_database(workspace.scratch()) as database:
            counted = (
                "CREATE TEMP TABLE counts AS "
                "SELECT duplicate_group, count(DISTINCT document_uid)::INTEGER AS documents "
                "FROM pictures GROUP BY duplicate_group"
            )
            read_stream(database, "pictures", workspace.batches(self.reads()), counted)
            counts = database.sql("SELECT * FROM counts ORDER BY duplicate_group").to_arrow_table()
        workspace.save_table("counts", counts)

    def columns(self, workspace: Workspace, part: int) -> pa.Table:
        """The count of each row's group."""
        counts = workspace.load_table("counts")
        groups = workspace.rows(part, ["duplicate_group"])["duplicate_group"]
        index = pa.compute.index_in(groups, counts["duplicate_group"])
        return pa.table([counts["documents"].take(index)], schema=self.writes())
