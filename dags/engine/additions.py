"""Lists that were added to a run after its first: what each is, in the order in which they came.

    additions.json                   the lists, sealed
    nodes/<node>-<fingerprint>/      parts of all lists, numbered on from list to list
        added-01/                    what the node found when the first of them was added

Fingerprints are those of the first list, so that nothing old is done again. A run with a list more
is the run before it, with parts behind its last: see `RunLayout.before`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import xxhash

from gristmill.dags.dag_yaml import stage_fields
from gristmill.dags.settings import build_stage
from gristmill.pipelines import stage_class, stage_name
from gristmill.pipelines.sealed import find_sealed, write_sealed
from gristmill.pipelines.stage import ManifestEntry, Read
from gristmill.pipelines.storage import Folder

ADDITIONS = "additions.json"


@dataclass(frozen=True)
class Addition:
    """A list that was added: how it is read, what it consisted of, and how much of it was taken."""

    source: Read
    # 64 hex digits, of its manifest when it was added.
    manifest: str
    # Rows of it to take; 0 means all.
    limit: int = 0

    @property
    def digest(self) -> str:
        """Tells it from another list, 32 hex digits."""
        text = json.dumps(self.stored(), sort_keys=True)
        return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"))

    def stored(self) -> dict[str, object]:
        """The addition as JSON holds it."""
        return {
            "stage": stage_name(type(self.source)),
            "fields": stage_fields(self.source),
            "manifest": self.manifest,
            "limit": self.limit,
        }


def list_title(source: Read) -> str:
    """What a list is called: as in the column `source` of its rows, if it says so."""
    title = getattr(source, "title", None)
    return str(title()) if callable(title) else type(source).__name__


def manifest_digest(manifest: Sequence[ManifestEntry]) -> str:
    """64 hex digits of what a list consists of."""
    text = json.dumps(manifest, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def load_additions(stored: Sequence[dict[str, object]]) -> tuple[Addition, ...]:
    """The additions that JSON holds."""
    found = []
    for one in stored:
        cls = stage_class(str(one["stage"]))
        source = build_stage(cls, cast(dict[str, object], one["fields"]), "source")
        found.append(Addition(cast(Read, source), str(one["manifest"]), cast(int, one["limit"])))
    return tuple(found)


def read_additions(folder: Folder) -> tuple[Addition, ...]:
    """The lists that were added to the run in a folder; where what says so is lost, those of the
    run that came to its end last."""
    said = find_sealed(folder, ADDITIONS)
    if said is not None:
        return load_additions(said["lists"])
    return load_additions((find_sealed(folder, "run.json") or {}).get("additions", ()))


def write_additions(folder: Folder, additions: Sequence[Addition]) -> None:
    """Say which lists were added to the run in a folder."""
    write_sealed(folder, ADDITIONS, {"lists": [one.stored() for one in additions]})
