"""Where training samples come from: our shard sets, and plain folders of WebDataset tars."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from gristmill.errors import ConfigurationError, SampleError, ShardError
from gristmill.model.data.listed_conversations import ListedConversations, lists_conversations
from gristmill.model.data.listed_texts import ListedTexts, lists_texts
from gristmill.model.data.picture_files import Spot, decode_frame, decode_picture
from gristmill.model.data.read_again import read_again
from gristmill.model.data.sample_order import Rows, as_numbers
from gristmill.model.data.tar_samples import TarSamples
from gristmill.pipelines.decode import Image
from gristmill.pipelines.rules import holds_halves
from gristmill.pipelines.shards.reader import ShardSet
from gristmill.pipelines.storage import Folder

# What the `Tokens` stage leaves of a picture, and the digest of the codec that made it.
TOKEN_COLUMNS = ("image_codes", "image_latents", "image_grid", "image_codec")


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """A shard set to train on, its share, and what is asked of it."""

    url: str
    split: str = "train"
    # Share of documents, against those of the other sources.
    weight: float = 1.0
    # SQL over the metadata columns; rows for which it is not true are left out.
    where: str = ""
    # Task -> share; "questions" makes questions of captions (see `tasks.find_questions`).
    tasks: dict[str, float] = field(default_factory=lambda: {"draw": 0.5, "describe": 0.5})
    questions: str = ""
    # Frames of a clip, evenly spread.
    frames: int = 2
    # Most questions of one picture in one document; one where answers are unmasked in any order,
    # as a masked answer would be what the next question follows.
    turns: int = 6
    name: str = ""

    @property
    def title(self) -> str:
        """What curves and messages call it."""
        return self.name or self.url.rstrip("/").rpartition("/")[2]


class Samples(Protocol):
    """Samples of a source by shard and row. In a worker, to which it is sent without its tables,
    only `file` and `picture_at` may be called."""

    url: str
    # Changes when the shards are written anew.
    digest: str
    # uids that must not be used.
    forgotten: frozenset[str]
    # What a sample is: image, video, document or edit.
    media: str

    def counts(self) -> list[int]:
        """Samples in each shard."""

    def table(self, shard: int) -> pa.Table:
        """Columns of a shard, one row a sample; `caption` among them."""

    def file(self, shard: int) -> str:
        """URL of a shard's file."""

    def spot(self, shard: int, row: int) -> Spot:
        """Where a sample's pictures lie."""

    def picture(self, shard: int, row: int, number: int = 0, frames: int = 1) -> Image:
        """`picture_at` of a sample."""

    def picture_at(self, spot: Spot, number: int = 0, frames: int = 1) -> Image:
        """One of a sample's pictures, or of so many frames evenly spread over a clip, decoded:
        uint8 RGB [height, width, 3].

        Raises `SampleError` if that cannot be had of this sample, `StorageError` or `ShardError` if
        the shard cannot be read."""


class OurSamples:
    """A shard set written by gristmill: a run's folder, or its `shards`."""

    def __init__(self, url: str, split: str) -> None:
        inner = url.rstrip("/") + "/shards"
        self.url = inner if Folder(inner).exists("manifest.json") else url
        self._shards = ShardSet(self.url, split)
        # Frames of a clip stand for the clip.
        self._frames = self._shards.media == "frames"
        self.media = "video" if self._frames else self._shards.media
        self.forgotten = self._shards.forgotten
        manifest = Folder(self.url).read_bytes("manifest.json")
        self.digest = hashlib.sha256(manifest).hexdigest()

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "forgotten": frozenset()}

    def counts(self) -> list[int]:
        return [int(shard["samples"]) for shard in self._shards.shards]

    def table(self, shard: int) -> pa.Table:
        return read_again(lambda: self._shards.metadata(shard), self.file(shard))

    def file(self, shard: int) -> str:
        return f"{self.url}/{self._shards.shards[shard]['name']}"

    def spot(self, shard: int, row: int) -> Spot:
        return Spot(shard, row)

    def picture(self, shard: int, row: int, number: int = 0, frames: int = 1) -> Image:
        return self.picture_at(self.spot(shard, row), number, frames)

    def picture_at(self, spot: Spot, number: int = 0, frames: int = 1) -> Image:
        shard, row = spot.shard, spot.row
        files = read_again(lambda: self._shards.sample(shard, row).images, self.file(shard))
        if not files and self._shards.pictures:
            raise SampleError("no picture")
        if not files:
            raise ShardError(
                f"{self.url} holds tokens and no pictures; use the codec that made them "
                "(its digest is image_codec) and a paradigm that needs no more, "
                "or shards with pictures"
            )
        if self.media == "video" and not self._frames:
            return decode_frame(files[0], number, frames)
        number = int((number + 0.5) * len(files) / frames) if self._frames else number
        if number >= len(files):
            raise SampleError("fewer pictures than its columns say")
        return decode_picture(files[number])


def open_samples(source: DataSource) -> Samples:
    """The samples of a source. Raises `ShardError` if there are none."""
    if lists_conversations(source.url):
        return ListedConversations(source.url)
    if lists_texts(source.url):
        return ListedTexts(source.url)
    folder = Folder(source.url)
    ours = folder.exists("manifest.json") or folder.exists("shards/manifest.json")
    found: Samples = OurSamples(source.url, source.split) if ours else TarSamples(source.url)
    if not sum(found.counts()):
        raise ShardError(f"{source.url} ({source.split}) has no samples; is the run finished?")
    return found


def chosen_rows(samples: Samples, where: str) -> list[Rows]:
    """Rows of each shard for which the SQL expression is true; all of them for none.

    Raises `ConfigurationError` for an expression that DuckDB refuses, or that leaves nothing.
    """
    if not where:
        return list(samples.counts())
    import duckdb

    rows: list[Rows] = []
    chosen = 0
    for shard in range(len(samples.counts())):
        table = samples.table(shard)
        table = table.select([f.name for f in table.schema if not holds_halves(f.type)])
        table = table.append_column("_row", pa.array(np.arange(len(table))))
        with duckdb.connect() as connection:
            connection.execute("SET enable_external_access=false")
            connection.register("samples", table)
            try:
                found = connection.execute(
                    f"SELECT _row FROM samples WHERE ({where}) ORDER BY _row"
                ).fetchnumpy()
            except duckdb.Error as error:
                raise ConfigurationError(
                    f"where {where!r} on {samples.url}: {error}; columns: {table.column_names}"
                ) from error
        numbers = np.asarray(found["_row"], np.int64)
        chosen += len(numbers)
        rows.append(len(table) if len(numbers) == len(table) else numbers)
    if not chosen:
        raise ConfigurationError(f"where {where!r} leaves no sample of {samples.url}")
    return rows


def spread_places(samples: Samples, count: int, where: str = "") -> list[tuple[int, int]]:
    """(shard, row) of at most `count` samples, evenly spread over those that may be seen: what is
    forgotten is neither learnt from nor shown."""
    rows = [as_numbers(part) for part in chosen_rows(samples, where)]
    ends = np.cumsum([len(part) for part in rows])
    wanted = np.linspace(0, ends[-1] - 1, min(count, int(ends[-1]))).astype(int)
    places = []
    for number in wanted:
        shard = int(np.searchsorted(ends, number, side="right"))
        row = int(rows[shard][number - ends[shard]])
        if not samples.forgotten or samples.table(shard)["uid"][row].as_py() not in (
            samples.forgotten
        ):
            places.append((shard, row))
    return places
