"""Shards: the rows that were kept, shuffled, split and packed for other people's readers.

Bytes are copied, never encoded again. Same rows, same seed: same bytes, whatever the number of
workers, the size of parts, or the order in which they were done.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError, GraphError
from gristmill.pipelines.database import open_database, read_stream
from gristmill.pipelines.digest_writer import DigestWriter
from gristmill.pipelines.media import MULTI_IMAGE_COLUMNS, STORED_MULTI_IMAGE, TOKEN_COLUMNS
from gristmill.pipelines.schema import MESSAGES
from gristmill.pipelines.sealed import seal
from gristmill.pipelines.shards.files import (
    LOST,
    LOST_SCHEMA,
    PLACE,
    UnreadableClip,
    metadata,
    with_moments,
    write_parquet,
    write_tar,
)
from gristmill.pipelines.shards.manifest import (
    FileFact,
    ListFacts,
    Manifest,
    ShardFact,
    WrittenFile,
)
from gristmill.pipelines.shards.order import BLOCKS, ORDER, ORIGIN, cut_shards, with_order
from gristmill.pipelines.shards.sidecars import (
    Described,
    JsonValue,
    card,
    croissant,
    sizes,
    stats,
    wids_index,
)
from gristmill.pipelines.stage import (
    Needs,
    Phase,
    Workspace,
    Write,
    missing_column,
    require_choice,
    setting,
)

SPLITS = ("train", "val")
FORMAT_VERSION = 1
# What every sample says about itself, in this order; scores follow.
IDENTITY = (
    "uid", "url", "caption", "source", "sha256", "width", "height", "original_width",
    "original_height", "format", "orientation", "licence", "duplicate_group",
)  # fmt: skip
_INTERNAL = (
    "image_id", "parent_uid", "row", "pointer", "status", "error", "meta", "received_bytes",
    "blob_offset", "blob_size", "verdict", "reason", "value", "duplicate_of", "duplicate_kind",
    "duplicate_group_size", "duplicate_distance", "pixel_hash", "part", "frame_hashes",
    "frame_details", "split_group", *MULTI_IMAGE_COLUMNS,
)  # fmt: skip
_MACHINERY = ("split_group", *ORIGIN)
_NEEDED = ("uid", "caption", "sha256", "blob_offset", "blob_size", "format")


@dataclass(frozen=True, kw_only=True)
class Shards(Write):
    """WebDataset tars, or Parquet as Hugging Face reads it, with every sidecar readers ask for."""

    # 2: samples say the digest of their stored bytes. 3: neighbours are shuffled together.
    version: ClassVar[int] = 3
    takes_additions: ClassVar[bool] = True
    # The last two decode and encode frames of clips.
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow", "av", "opencv-python-headless")

    # Tars, or Parquet as Hugging Face reads it.
    format: str = setting("webdataset", choices=("webdataset", "parquet"))
    # What a sample is: an image or a video with its caption, a document, an edit of an image, or
    # frames of a clip in the clip's stead.
    media: str = setting("image", choices=("image", "video", "document", "edit", "frames"))
    # With media=frames: how many, evenly spread.
    frames: int = setting(8, unit="frames", low=1)
    # With media=frames: their longer side at most.
    frame_side: int = setting(512, unit="pixels", low=2)
    # False: tokens instead of pictures, for readers that need no pixels.
    pictures: bool = True
    # A shard is closed at this many samples.
    samples_per_shard: int = setting(10_000, unit="samples", low=1)
    # A shard is closed at this many bytes of pictures, if that comes first.
    bytes_per_shard: int = setting(1_000_000_000, unit="bytes", low=1)
    # Share of groups that goes to val/.
    val_share: float = setting(0.01, low=0, high=1)
    # "group": copies, and clips of one video, stay on one side (needs a node that finds copies);
    # "bytes": by digest of what was received. "auto": by group if there are groups.
    split_by: str = setting("auto", choices=("auto", "group", "bytes"))
    # Order of the global shuffle.
    seed: int = 0
    # Neighbours in the source that the shuffle leaves in one shard, where their pictures are read
    # at once; never more than a 128th of `samples_per_shard`. 1: each row goes its own way.
    shuffle_rows: int = setting(32, unit="rows", low=1)
    # Of the dataset card.
    title: str = "A dataset made with Gristmill"
    # Of the dataset card.
    description: str = ""
    # Of the dataset as a whole; the licences of its samples are counted in the card.
    licence: str = ""

    def check(self) -> None:
        """Validate the choices."""
        require_choice(self, "format")
        require_choice(self, "split_by")
        require_choice(self, "media")
        if self.frames < 1 or self.frame_side < 2:
            raise ConfigurationError("frames must be at least 1, and frame_side at least 2")
        if self.samples_per_shard < 1 or self.bytes_per_shard < 1:
            raise ConfigurationError("samples_per_shard and bytes_per_shard must be at least 1")
        if not 0 <= self.val_share < 1:
            raise ConfigurationError(f"val_share is {self.val_share}; it lies in [0, 1)")

    def resolve_columns(self, available: pa.Schema) -> tuple[str, ...]:
        """All that describes a sample, among what comes in."""
        for name in _NEEDED:
            if name not in available.names:
                raise GraphError(missing_column("Shards", name, available.names))
        if not self.pictures and not set(TOKEN_COLUMNS) & set(available.names):
            raise GraphError(
                "Shards.pictures is false, and no node before it writes tokens: nothing of a "
                "picture would be left; give the Tokens node images=CODEC"
            )
        if self.split_by == "group" and "duplicate_group" not in available.names:
            raise GraphError(missing_column("Shards", "duplicate_group", available.names))
        identity = [name for name in IDENTITY if name in available.names]
        split = ["split_group"] if "split_group" in available.names else []
        pieces = [name for name in MULTI_IMAGE_COLUMNS if name in available.names]
        for name, media in ((MULTI_IMAGE_COLUMNS[0], STORED_MULTI_IMAGE), ("frames", ("frames",))):
            if self.media in media and name not in available.names:
                raise GraphError(missing_column("Shards", name, available.names))
        origin = [name for name in ORIGIN if name in available.names]
        return (*identity, *score_names(available), *split, *pieces, *PLACE, *origin)

    def needs(self) -> Needs:
        """One shard's metadata and a few pictures at a time."""
        return Needs(memory_gb=1.0)

    def phases(self) -> tuple[Phase, ...]:
        """Plan, write each shard, and last the sidecars with the manifest."""
        return (
            Phase(name="plan", count=lambda _: 1, work=self._plan),
            Phase(name="write", count=lambda w: int(_new_shards(w).sum()), work=self._write),
            Phase(name="index", count=lambda _: 1, work=self._index),
        )

    # -- plan -----------------------------------------------------------------------------------

    def _plan(self, workspace: Workspace, _: int) -> None:
        """Which sample of the last list lies in which shard, with all that will be written about
        it; shards are numbered on from those of the lists before."""
        names = self.resolve_columns(workspace.schema)
        machinery = [*ORDER.names, *(name for name in names if name in _MACHINERY)]
        counts = dict(zip(SPLITS, _shards(workspace.before).tolist(), strict=True))
        parts = range(workspace.first_part, workspace.parts)
        with open_database(workspace.scratch()) as database:
            entering = with_order(
                workspace.batches(names, parts),
                seed=self.seed,
                together=min(self.shuffle_rows, self.samples_per_shard // BLOCKS),
                by_group=self.split_by != "bytes",
                val_share=self.val_share,
            )
            made = "CREATE TEMP TABLE kept AS SELECT * FROM entering"
            read_stream(database, "entering", entering, made)
            for split in SPLITS:
                ordered = database.sql(
                    f"SELECT * EXCLUDE ({', '.join(machinery)}) FROM kept "
                    f"WHERE is_val = {split == 'val'} ORDER BY shuffle_key, uid"
                ).to_arrow_reader(5_000)
                for table in cut_shards(ordered, self.samples_per_shard, self.bytes_per_shard):
                    if self.media == "frames":
                        table = with_moments(table, self.frames)
                    name = f"plan/{split}-{counts[split]:08d}"
                    workspace.save_table(name, table.sort_by("uid"))
                    counts[split] += 1
        workspace.save("shards", np.array([counts[split] for split in SPLITS], np.int64))

    # -- write ----------------------------------------------------------------------------------

    def _write(self, workspace: Workspace, index: int) -> None:
        train = int(_new_shards(workspace)[0])
        there = _shards(workspace.before)
        split, number = ("train", index) if index < train else ("val", index - train)
        number += int(there[SPLITS.index(split)])
        plan = workspace.load_table(f"plan/{split}-{number:08d}")
        lost: list[dict[str, str]] = []
        while True:
            try:
                facts = self._write_shard(workspace, plan, split, number)
                break
            except UnreadableClip as error:
                # Rare: the shard is written again without it, so that each file is whole or not.
                lost.append({"uid": error.uid, "reason": error.reason, "value": str(error)})
                plan = plan.filter(pc.not_equal(plan["uid"], error.uid))
        if lost:
            workspace.save_table(f"{LOST}/{index:08d}", pa.Table.from_pylist(lost, LOST_SCHEMA))
        workspace.save_table(f"written/{index:08d}", pa.Table.from_pylist(facts, _FILE))

    def _write_shard(
        self, workspace: Workspace, plan: pa.Table, split: str, number: int
    ) -> list[WrittenFile]:
        """Write a shard with what lies beside it. Raises `UnreadableClip`."""
        name = f"{split}/{number:08d}"
        files = Files(workspace)
        media = self.media if self.pictures else ""
        places: list[list[tuple[int, int]]] = []
        if self.format == "webdataset":
            with files.open(f"{name}.tar") as file:
                places = write_tar(file, plan, workspace, media, self.frame_side)
        else:
            with files.open(f"{name}.parquet") as file:
                write_parquet(file, plan, workspace, media, self.frame_side)
        files.write(f"{split}/{number:08d}_stats.json", stats(len(plan)))
        buffer = io.BytesIO()
        pq.write_table(metadata(plan, places, self.media), buffer, compression="zstd")
        files.write(f"{split}/metadata/{number:08d}.parquet", buffer.getvalue())
        files.facts[0]["samples"] = len(plan)
        return files.facts

    # -- index ----------------------------------------------------------------------------------

    def _index(self, workspace: Workspace, _: int) -> None:
        splits: dict[str, list[ShardFact]] = {split: [] for split in SPLITS}
        others: list[FileFact] = []
        lists: list[ListFacts] = []
        for name, one in zip(workspace.lists, _lists(workspace), strict=True):
            mine: dict[str, list[ShardFact]] = {split: [] for split in SPLITS}
            for i in range(int(_new_shards(one).sum())):
                facts = one.load_table(f"written/{i:08d}").to_pylist()
                mine[facts[0]["name"].partition("/")[0]].append(facts[0])
                others += facts[1:]
            lists.append({"name": name, "shards": {key: len(s) for key, s in mine.items()}})
            for split, found in mine.items():
                splits[split] += found
        files = Files(workspace)
        for split, found in splits.items():
            if found:
                files.write(f"{split}/sizes.json", sizes(found))
                files.write(f"{split}/shardindex.json", wids_index(found, f"{self.title} {split}"))
        described = _describe(workspace)
        files.write("croissant.json", croissant(self, splits, others, described["schema"]))
        files.write("DATASET_CARD.md", card(self, splits, described, lists))
        manifest: Manifest = {
            "gristmill": FORMAT_VERSION,
            "format": self.format,
            "media": self.media,
            "pictures": self.pictures,
            "splits": {split: {"shards": found} for split, found in splits.items()},
            "files": [
                {"name": fact["name"], "bytes": fact["bytes"], "sha256": fact["sha256"]}
                for fact in [*others, *files.facts]
            ],
        }
        if len(lists) > 1:
            manifest["lists"] = lists
        if described["verified"]:
            manifest["verified"] = described["verified"]
        files.write("manifest.json", seal(cast(Mapping[str, object], manifest)))


_FILE = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("samples", pa.int64()),
    ]
)


def as_json(value: JsonValue) -> bytes:
    """Indented JSON with a newline at its end."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def score_names(available: pa.Schema) -> list[str]:
    """Columns of plain values, or lists of them, that are neither identity nor machinery; and turns
    of conversations."""
    kinds = (
        pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_string,
    )  # fmt: skip
    return [
        field.name
        for field in available
        if field.name not in IDENTITY
        and field.name not in _INTERNAL
        and (field.type == MESSAGES or any(is_kind(_value_type(field.type)) for is_kind in kinds))
    ]


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) else kind


class Files:
    """Files of the product, each remembered with size and digest."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.facts: list[WrittenFile] = []

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[DigestWriter]:
        """A file to write."""
        with self._workspace.output(name) as file:
            writer = DigestWriter(file, hashlib.sha256())
            yield writer
        digest = writer.digest.hexdigest()
        self.facts.append({"name": name, "bytes": writer.size, "sha256": digest, "samples": None})

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole."""
        with self.open(name) as file:
            file.write(data)


def _lists(workspace: Workspace) -> list[Workspace]:
    """What this node saw and saved as each list came, the first list first."""
    before = workspace.before
    return [*(_lists(before) if before else ()), workspace]


def _shards(workspace: Workspace | None) -> NDArray[np.int64]:
    """How many shards of each split there are with the last list; none without a list."""
    return np.zeros(len(SPLITS), np.int64) if workspace is None else workspace.load("shards")


def _new_shards(workspace: Workspace) -> NDArray[np.int64]:
    """How many of them hold what the last list brought."""
    return np.asarray(_shards(workspace) - _shards(workspace.before))


def _plans(workspace: Workspace) -> Iterator[pa.Table]:
    """What is written of each shard, of all lists."""
    for one in _lists(workspace):
        for split, first, end in zip(SPLITS, _shards(one.before), _shards(one), strict=True):
            for number in range(int(first), int(end)):
                yield one.load_table(f"plan/{split}-{number:08d}")


def _describe(workspace: Workspace) -> Described:
    """What the card says: counts of sources and licences, ranges of numbers."""
    sources: dict[str, int] = {}
    licences: dict[str, int] = {}
    verified: dict[str, int] = {}
    tls: dict[str, int] = {}
    ranges: dict[str, list[float]] = {}
    schema = pa.schema([])
    for table in _plans(workspace):
        schema = table.schema
        for counts, name in (
            (sources, "source"), (licences, "licence"), (verified, "verified"), (tls, "tls"),
        ):  # fmt: skip
            nothing = "no TLS" if name == "tls" else "unknown"
            for value in table[name].to_pylist() if name in table.column_names else ():
                counts[value or nothing] = counts.get(value or nothing, 0) + 1
        for field in table.schema:
            if pa.types.is_floating(field.type) or pa.types.is_integer(field.type):
                if field.name in ("part", *PLACE, "phash"):
                    continue
                found = pa.compute.min_max(table[field.name]).as_py()
                if found["min"] is not None:
                    low, high = ranges.get(field.name, [found["min"], found["max"]])
                    ranges[field.name] = [min(low, found["min"]), max(high, found["max"])]
    names = [field for field in schema if field.name not in ("part", *PLACE, *MULTI_IMAGE_COLUMNS)]
    return {
        "sources": sources,
        "licences": licences,
        "verified": verified,
        "tls": tls,
        "ranges": ranges,
        "schema": pa.schema(names),
    }
