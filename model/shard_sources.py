"""Where training samples come from: our shard sets, and plain folders of WebDataset tars."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gristmill.errors import ConfigurationError, ShardError
from gristmill.model.unpacked_tars import unpacked_tar
from gristmill.pipelines.decode import Image, decode_rgb
from gristmill.pipelines.shards.reader import ShardSet, read_forgotten
from gristmill.pipelines.storage import Folder
from gristmill.pipelines.tar_samples import (
    DEAD_LINK,
    DOT_FILES,
    FACT_ENDING,
    NO_PICTURE,
    TAR_ENDINGS,
    TarMember,
    TarMembers,
    TarSample,
    kind_of_text,
    samples_of,
)
from gristmill.pipelines.videos.frames import decode_clip

# What the `Tokens` stage leaves of a picture, and the digest of the codec that made it.
TOKEN_COLUMNS = ("image_codes", "image_latents", "image_codec")
_IMAGES = ("jpg", "jpeg", "png", "webp")


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
    """Samples of a source by shard and row."""

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

    def picture(self, shard: int, row: int, number: int = 0, frames: int = 1) -> Image:
        """One of a sample's pictures, or of so many frames evenly spread over a clip, decoded:
        uint8 RGB [height, width, 3]."""


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

    def counts(self) -> list[int]:
        return [int(shard["samples"]) for shard in self._shards.shards]

    def table(self, shard: int) -> pa.Table:
        return self._shards.metadata(shard)

    def picture(self, shard: int, row: int, number: int = 0, frames: int = 1) -> Image:
        files = self._shards.sample(shard, row).images
        if not files:
            raise ShardError(
                f"{self.url} holds tokens and no pictures; use the codec that made them "
                "(its digest is image_codec) and a paradigm that needs no more, "
                "or shards with pictures"
            )
        if self._frames:
            return decode_rgb(files[int((number + 0.5) * len(files) / frames)])
        if self.media != "video":
            return decode_rgb(files[number])
        moments = decode_clip(files[0]).frames
        picture: Image = moments[int((number + 0.5) * len(moments) / frames)]
        return picture


class TarSamples:
    """Tars of anybody: members of one key are one sample. Found by one pass over the headers;
    compressed ones are unpacked once, into the user's cache."""

    def __init__(self, url: str) -> None:
        self.url, self.media = url, "image"
        folder = Folder(url)
        names = [name for name in folder.names() if name.endswith(TAR_ENDINGS)]
        self._names = [name for name in names if not name.startswith(".")]
        if not self._names:
            raise ShardError(
                f"{url} holds no shards: neither a manifest.json of ours nor any .tar; give the "
                "folder of a finished run or of WebDataset tars"
            )
        # Why samples and files were left out -> how many.
        self.left_out: Counter[str] = Counter()
        self._plain = [unpacked_tar(folder, name) for name in self._names]
        self._tables = [self._scan(i) for i in range(len(self._names))]
        self.forgotten = read_forgotten(folder)
        sizes = [(name, folder.size(name)) for name in self._names]
        self.digest = hashlib.sha256(repr(sizes).encode()).hexdigest()

    def counts(self) -> list[int]:
        return [len(table) for table in self._tables]

    def table(self, shard: int) -> pa.Table:
        return self._tables[shard]

    def picture(self, shard: int, row: int, number: int = 0, frames: int = 1) -> Image:
        table, (folder, name) = self._tables[shard], self._plain[shard]
        offset, size = table["_offset"][row].as_py(), table["_size"][row].as_py()
        return decode_rgb(folder.read_range(name, offset, size))

    def _scan(self, shard: int) -> pa.Table:
        folder, name = self._plain[shard]
        texts: dict[int, bytes] = {}

        def members() -> Iterator[TarMember]:
            for member, data in tar.read(lambda ending: kind_of_text(ending) is not None):
                if data is not None:
                    texts[member.number] = data
                yield member

        with folder.open(name) as file:
            tar = TarMembers(file)
            samples = list(samples_of(members(), _is_image))
        if tar.problem:
            raise ShardError(
                f"{self.url}/{self._names[shard]} is not a whole tar ({tar.problem}); fetch or "
                "write it again"
            )
        if tar.skipped:
            self.left_out[DOT_FILES] += tar.skipped
        rows = [row for sample in samples if (row := self._row(sample, texts))]
        columns = sorted({column for row in rows for column in row})
        return pa.table({column: [row.get(column) for row in rows] for column in columns})

    def _row(
        self, sample: TarSample[TarMember], texts: Mapping[int, bytes]
    ) -> dict[str, object] | None:
        """Columns of a sample; None, and counted, if it cannot be used."""
        picture = sample.members[sample.picture] if sample.picture else None
        reason = sample.reason
        if picture is None or picture.number < 0:
            reason = reason or (NO_PICTURE if picture is None else DEAD_LINK)
        if picture is None or reason:
            self.left_out[str(reason)] += 1
            return None
        row: dict[str, object] = {"uid": sample.key, "caption": ""}
        row |= {"_offset": picture.offset, "_size": picture.size}
        for ending in sample.captions()[:1]:
            data = texts.get(sample.members[ending].number, b"")
            row["caption"] = _unzipped(ending, data).decode("utf-8", "replace").strip()
        facts = sample.members.get(FACT_ENDING)
        if facts is not None:
            _add_facts(row, texts.get(facts.number, b""))
        return row


def _is_image(extension: str) -> bool:
    return extension.rpartition(".")[2] in _IMAGES


def _unzipped(ending: str, data: bytes) -> bytes:
    try:
        return gzip.decompress(data) if ending.endswith(".gz") else data
    except (OSError, EOFError, zlib.error):
        return b""


def _add_facts(row: dict[str, object], data: bytes) -> None:
    """What the JSON member of a sample says, where it is an object."""
    try:
        facts = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return
    if isinstance(facts, dict):
        row["caption"] = row["caption"] or str(facts.get("caption") or "")
        for name in ("question", "answer", "instruction", "source_uid", *TOKEN_COLUMNS):
            if facts.get(name):
                row[name] = facts[name]


def open_samples(source: DataSource) -> Samples:
    """The samples of a source. Raises `ShardError` if there are none."""
    folder = Folder(source.url)
    ours = folder.exists("manifest.json") or folder.exists("shards/manifest.json")
    found: Samples = OurSamples(source.url, source.split) if ours else TarSamples(source.url)
    if not sum(found.counts()):
        if isinstance(found, TarSamples):
            causes = ", ".join(f"{count} {reason}" for reason, count in found.left_out.items())
            raise ShardError(
                f"the tars of {source.url} hold no sample that can be used: "
                f"{causes or 'they are empty'}; a sample is KEY.jpg (or {', '.join(_IMAGES[1:])}) "
                "and KEY.txt or KEY.json, side by side"
            )
        raise ShardError(f"{source.url} ({source.split}) has no samples; is the run finished?")
    return found


def chosen_rows(samples: Samples, where: str) -> list[NDArray[np.int64]]:
    """Rows of each shard for which the SQL expression is true; all of them for none.

    Raises `ConfigurationError` for an expression that DuckDB refuses, or that leaves nothing.
    """
    if not where:
        return [np.arange(count) for count in samples.counts()]
    import duckdb

    rows = []
    for shard in range(len(samples.counts())):
        table = samples.table(shard)
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
        rows.append(np.asarray(found["_row"], np.int64))
    if not sum(len(part) for part in rows):
        raise ConfigurationError(f"where {where!r} leaves no sample of {samples.url}")
    return rows


class SampleOrder:
    """Sample number -> (shard, row), a function of the seed alone.

    Each epoch shuffles the shards, and then the samples inside windows of some shards: near to a
    full shuffle, and a reader stays within few files.
    """

    def __init__(self, rows: Sequence[NDArray[np.int64]], seed: int, window: int = 16) -> None:
        self.rows, self.seed, self.window = list(rows), seed, window
        self.size = sum(len(part) for part in rows)

    def __getitem__(self, number: int) -> tuple[int, int]:
        """The sample that comes `number`-th, over all epochs."""
        epoch, at = divmod(number, self.size)
        for shards, count in self._windows(epoch):
            if at < count:
                pairs = self._window(epoch, shards)
                return int(pairs[at, 0]), int(pairs[at, 1])
            at -= count
        raise AssertionError("unreachable")

    def _windows(self, epoch: int) -> Iterator[tuple[tuple[int, ...], int]]:
        order = self._shards(epoch)
        for start in range(0, len(order), self.window):
            shards = order[start : start + self.window]
            yield shards, sum(len(self.rows[shard]) for shard in shards)

    @lru_cache(maxsize=4)  # noqa: B019
    def _shards(self, epoch: int) -> tuple[int, ...]:
        rng = np.random.Generator(np.random.PCG64([self.seed, 21, epoch]))
        return tuple(int(i) for i in rng.permutation(len(self.rows)))

    @lru_cache(maxsize=4)  # noqa: B019
    def _window(self, epoch: int, shards: tuple[int, ...]) -> NDArray[np.int64]:
        pairs = np.concatenate(
            [
                np.stack([np.full(len(self.rows[shard]), shard), self.rows[shard]], axis=1)
                for shard in shards
            ]
        )
        rng = np.random.Generator(np.random.PCG64([self.seed, 22, epoch, shards[0]]))
        return np.asarray(rng.permutation(pairs))
