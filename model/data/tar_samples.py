"""Plain folders of WebDataset tars, as others write them: their samples, found by one pass over
the headers. What is odd about one sample is said of it, and is no end of anything."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from gristmill.errors import SampleError, ShardError
from gristmill.model.data.picture_files import Spot, decode_picture
from gristmill.model.data.picture_sizes import first_bytes, upright_size
from gristmill.model.data.read_again import read_again
from gristmill.model.data.tar_conversations import conversation_in, whole_conversations
from gristmill.model.data.unpacked_tars import unpacked_tar
from gristmill.pipelines.decode import Image
from gristmill.pipelines.download.picture_bytes import read_header
from gristmill.pipelines.schema import MESSAGES
from gristmill.pipelines.shards.reader import read_forgotten
from gristmill.pipelines.sources.reasons import BROKEN_SIDECAR, FEWER_PICTURES, NOT_UTF8
from gristmill.pipelines.sources.values import BrokenJson, load_object, text_of, texts_of
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

_IMAGES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("question", "answer", "instruction", "source_uid", "image_codec")
# Of stored tokens: the type, and the kinds that numpy may find their values to be.
_NUMBERS = {
    "image_codes": (pa.int64(), "iu"),
    "image_latents": (pa.float32(), "iuf"),
    "image_grid": (pa.int64(), "iu"),
}
_SCHEMA = pa.schema(
    [
        pa.field("uid", pa.string()),
        pa.field("caption", pa.string()),
        # All of them, where there are several.
        pa.field("captions", pa.list_(pa.string())),
        # The one of them with the highest of `caption_scores`, where there are such.
        pa.field("best_caption", pa.string()),
        *(pa.field(name, pa.string()) for name in _TEXTS),
        *(pa.field(name, pa.list_(kind)) for name, (kind, _) in _NUMBERS.items()),
        # Why nothing can be learnt from the sample.
        pa.field("fault", pa.string()),
        # Of the picture as it decodes, upright.
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        # Of a conversation, whose pictures are as many as it has marks.
        pa.field("messages", MESSAGES),
        pa.field("picture_count", pa.int32()),
        pa.field("image_heights", pa.list_(pa.int32())),
        pa.field("image_widths", pa.list_(pa.int32())),
        # Where pictures lie.
        pa.field("_offsets", pa.list_(pa.int64())),
        pa.field("_sizes", pa.list_(pa.int64())),
    ]
)


class OddValueError(ValueError):
    """A value that is not what its name says; the message is a countable reason."""


class TarSamples:
    """Tars of anybody: members of one key are one sample. Compressed ones are unpacked once, into
    the user's cache."""

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
        # Why samples cannot be learnt from, and files are none -> how many.
        self.left_out: Counter[str] = Counter()
        self._files = [folder.join_url(name) for name in self._names]
        sizes = [(name, folder.size(name)) for name in self._names]
        self._plain = [
            read_again(functools.partial(unpacked_tar, folder, name), file, size=size)
            for (name, size), file in zip(sizes, self._files, strict=True)
        ]
        # Reading is timed; loading what reads headers is not part of it.
        read_header(b"")
        # Sizes alone would not tell a tar that was written anew: names, places, texts and the first
        # bytes of pictures do, wherever the tar lies.
        content = hashlib.sha256(repr(sizes).encode())
        self._tables = [self._table_of(shard, content) for shard in range(len(self._files))]
        self.digest = content.hexdigest()
        self._require_samples()
        self.forgotten = read_forgotten(folder)

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_tables": [], "forgotten": frozenset()}

    def counts(self) -> list[int]:
        return [len(table) for table in self._tables]

    def table(self, shard: int) -> pa.Table:
        return self._tables[shard]

    def file(self, shard: int) -> str:
        return self._files[shard]

    def spot(self, shard: int, row: int) -> Spot:
        table = self._tables[shard]
        offsets, sizes = table["_offsets"][row].as_py(), table["_sizes"][row].as_py()
        if not sizes:
            return Spot(shard, row, fault=str(table["fault"][row].as_py() or NO_PICTURE))
        return Spot(shard, row, tuple(zip(offsets, sizes, strict=True)))

    def picture(self, shard: int, row: int, number: int = 0, frames: int = 1) -> Image:
        return self.picture_at(self.spot(shard, row), number, frames)

    def picture_at(self, spot: Spot, number: int = 0, frames: int = 1) -> Image:
        if spot.fault:
            raise SampleError(spot.fault)
        if number >= len(spot.parts):
            raise SampleError(FEWER_PICTURES)
        (folder, name), (offset, size) = self._plain[spot.shard], spot.parts[number]
        file = self._files[spot.shard]
        data = read_again(lambda: folder.read_range(name, offset, size), file)
        if len(data) != size:
            raise SampleError("tar ends early")
        return decode_picture(data)

    def _table_of(self, shard: int, content: hashlib._Hash) -> pa.Table:
        folder, name = self._plain[shard]
        scan = functools.partial(self._scan, shard)
        rows, skipped, digest = read_again(scan, self._files[shard], size=folder.size(name))
        content.update(digest)
        self.left_out.update(str(row["fault"]) for row in rows if "fault" in row)
        if skipped:
            self.left_out[DOT_FILES] += skipped
        return pa.Table.from_pylist(rows, schema=_SCHEMA)

    def _scan(self, shard: int) -> tuple[list[dict[str, object]], int, bytes]:
        """Rows of a tar, how many of its files belong to none, and what tells it from others."""
        content = hashlib.sha256()
        folder, name = self._plain[shard]
        texts: dict[int, bytes] = {}
        sizes: dict[int, tuple[int, int] | None] = {}

        def members() -> Iterator[TarMember]:
            for member, data in tar.read(lambda ending: kind_of_text(ending) is not None):
                content.update(repr((member.name, member.offset, member.size)).encode())
                if data is not None:
                    texts[member.number] = data
                    content.update(data)
                elif member.number >= 0 and _is_image(member.extension):
                    sizes[member.number] = upright_size(file, member.offset, member.size)
                    content.update(first_bytes(file, member.offset, member.size))
                yield member

        with folder.open(name) as file:
            tar = TarMembers(file)
            samples = whole_conversations(list(samples_of(members(), _is_image)), texts)
        if tar.problem:
            raise ShardError(
                f"{self._files[shard]} is not a whole tar ({tar.problem}); fetch or write it again"
            )
        rows = [_row(sample, texts, sizes) for sample in samples]
        return rows, tar.skipped, content.digest()

    def _require_samples(self) -> None:
        if any(table["fault"].null_count for table in self._tables):
            return
        causes = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items())
        raise ShardError(
            f"the tars of {self.url} hold no sample that can be used: "
            f"{causes or 'they are empty'}; a sample is KEY.jpg (or {', '.join(_IMAGES[1:])}) "
            "and KEY.txt or KEY.json, side by side"
        )


def _is_image(extension: str) -> bool:
    return extension.rpartition(".")[2] in _IMAGES


def _row(
    sample: TarSample[TarMember],
    texts: Mapping[int, bytes],
    sizes: Mapping[int, tuple[int, int] | None],
) -> dict[str, object]:
    """What is known of a sample; what is odd about it is its fault."""
    row: dict[str, object] = {"uid": sample.key, "caption": ""}
    turns, pictures = conversation_in(sample, texts, _is_image)
    if turns:
        row |= {
            "messages": [turn._asdict() for turn in turns],
            "picture_count": len(pictures),
            "image_heights": [(sizes[one.number] or (None,))[0] for one in pictures],
            "image_widths": [(sizes[one.number] or (None,))[-1] for one in pictures],
        }
    picture = pictures[0] if pictures else None
    try:
        if sample.reason:
            raise OddValueError(sample.reason)
        if picture is not None and picture.number >= 0:
            row |= {"_offsets": [one.offset for one in pictures]}
            row |= {"_sizes": [one.size for one in pictures]}
            row |= zip(("height", "width"), sizes[picture.number] or (None, None), strict=True)
        # Known also where there is no picture: others then lie where they would beside it.
        said = [_text(ending, sample.members[ending], texts) for ending in sample.captions()]
        _take_captions(row, said)
        for ending in (FACT_ENDING, f"{FACT_ENDING}.gz"):
            if ending in sample.members:
                # Turns that stand alone are no object of facts.
                with contextlib.suppress(*([OddValueError] if turns else ())):
                    _take_facts(row, _bytes(ending, sample.members[ending], texts), bool(said))
        if turns:
            return row
        if picture is None or picture.number < 0:
            raise OddValueError(NO_PICTURE if picture is None else DEAD_LINK)
        if not picture.size:
            raise OddValueError("picture is empty")
    except OddValueError as error:
        row["fault"] = str(error)
    return row


def _bytes(ending: str, member: TarMember, texts: Mapping[int, bytes]) -> bytes:
    """Of a text member, also one that was gzipped by itself."""
    data = texts.get(member.number, b"")
    try:
        return gzip.decompress(data) if ending.endswith(".gz") else data
    except (OSError, EOFError, zlib.error):
        raise OddValueError(f"{kind_of_text(ending)} does not unpack") from None


def _text(ending: str, member: TarMember, texts: Mapping[int, bytes]) -> str:
    try:
        return _bytes(ending, member, texts).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise OddValueError(NOT_UTF8) from None


def _take_captions(row: dict[str, object], said: list[str]) -> None:
    captions = [text.strip() for text in said if text.strip()]
    row["caption"] = captions[0] if captions else ""
    row["captions"] = captions if len(captions) > 1 else None


def _take_facts(row: dict[str, object], data: bytes, has_text: bool) -> None:
    """What the JSON member says; where a text is beside it, one that is broken says nothing."""
    try:
        facts = load_object(data)
    except BrokenJson:
        if has_text:
            return
        raise OddValueError(BROKEN_SIDECAR) from None
    if not row["caption"]:
        captions, other = texts_of(facts.get("caption"))
        if other and not captions:
            raise OddValueError("caption is no text")
        _take_captions(row, captions)
        row["best_caption"] = _best(facts.get("caption"), facts.get("caption_scores"))
    for name in _TEXTS:
        value = facts.get(name)
        row[name] = text_of(value) or None
        if row[name] is None and value not in (None, ""):
            raise OddValueError(f"{name} is no text")
    for name, (_, kinds) in _NUMBERS.items():
        row[name] = _numbers(facts.get(name), name, kinds)


def _best(captions: object, scores: object) -> str | None:
    """That of a list of captions whose score is the highest, if each has one."""
    if not isinstance(captions, list) or not isinstance(scores, list):
        return None
    numbers = _numbers(scores, "caption_scores", "iuf") or []
    if not captions or len(numbers) != len(captions):
        raise OddValueError("caption_scores and captions differ in number")
    texts = [(text_of(caption) or "").strip() for caption in captions]
    pairs = zip(numbers, texts, strict=True)
    worth = [(score, text) for score, text in pairs if text and np.isfinite(score)]
    return max(worth, key=lambda pair: pair[0])[1] if worth else None


def _numbers(value: object, name: str, kinds: str) -> list[float] | None:
    """Stored tokens, flat."""
    if value is None:
        return None
    try:
        found = np.asarray(value).reshape(-1)
    except ValueError:
        found = np.asarray([None])
    if found.dtype.kind not in kinds or not isinstance(value, list):
        raise OddValueError(f"{name} is no list of numbers")
    return list(found.astype(np.int64 if kinds == "iu" else np.float64).tolist())
