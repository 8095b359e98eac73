"""The turns of a conversation, for shards: who says what, and where pictures are seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from gristmill.pipelines.media import Decoded
from gristmill.pipelines.schema import MESSAGES, ColumnFacts
from gristmill.pipelines.sources.conversations import ROLES
from gristmill.pipelines.sources.documents import TURNS_OF_DOCUMENT
from gristmill.pipelines.stage import Score


@dataclass(frozen=True, kw_only=True)
class Messages(Score):
    """What a source of conversations says in turn, as a column that trainers read."""

    def reads(self) -> tuple[str, ...]:
        """What the source says beside its pictures."""
        return ("meta",)

    def writes(self) -> pa.Schema:
        """The turns, and how much is answered."""
        return pa.schema(
            [
                pa.field("messages", MESSAGES),
                pa.field("turns", pa.int32()),
                pa.field("answer_chars", pa.int32()),
            ]
        )

    def describes(self) -> Mapping[str, ColumnFacts]:
        """What the columns mean."""
        return {
            "messages": ColumnFacts(
                f"Turns of a conversation: role ({', '.join(ROLES)}) and text, in which <image> "
                "stands for the next picture of the sample."
            ),
            "turns": ColumnFacts("Turns of the conversation.", "turns", low=0),
            "answer_chars": ColumnFacts("Length of all answers.", "characters", low=0),
        }

    def score(self, table: pa.Table, images: Sequence[Decoded] | None) -> pa.Table:
        """Unfold the turns of each row."""
        rows = [
            json.loads(text or "{}").get(TURNS_OF_DOCUMENT) for text in table["meta"].to_pylist()
        ]
        values = {
            "messages": [
                turns and [{"role": role, "text": text} for role, text in turns] for turns in rows
            ],
            "turns": [len(turns) if turns else 0 for turns in rows],
            "answer_chars": [
                sum(len(text) for role, text in turns or () if role == "assistant")
                for turns in rows
            ],
        }
        return pa.table(values, schema=self.writes())
