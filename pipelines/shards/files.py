"""The files of shards: tars and Parquet tables with their samples' files, and the metadata beside
them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import av
import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from gristmill.pipelines.decode import encode_jpeg
from gristmill.pipelines.digest_writer import DigestWriter
from gristmill.pipelines.media import (
    MULTI_IMAGE,
    MULTI_IMAGE_COLUMNS,
    STORED_MULTI_IMAGE,
    explode_pieces,
)
from gristmill.pipelines.shards.sidecars import JsonMembers
from gristmill.pipelines.shards.tar import TarWriter
from gristmill.pipelines.stage import Workspace
from gristmill.pipelines.videos.frames import moments_of, sample_frames

# Where the bytes of a row lie that has one piece.
PLACE = ("blob_offset", "blob_size")
# Tables of rows that could not be written, saved beside the plan.
LOST = "lost"
LOST_SCHEMA = pa.schema([(name, pa.string()) for name in ("uid", "reason", "value")])
_SIZES = MULTI_IMAGE_COLUMNS[1]
# Stored bytes that are fetched together: the more, the fewer requests.
_READ_BYTES = 128 * 2**20
_GROUP_ROWS = 100


class UnreadableClip(ValueError):
    """The frames of a row's clip cannot be had, though it went through all that came before."""

    reason = "frames not decodable"

    def __init__(self, uid: str, why: Exception) -> None:
        super().__init__(f"{type(why).__name__}: {why}")
        self.uid = uid


def with_moments(plan: pa.Table, frames: int) -> pa.Table:
    """The plan with the column `picture_frames`: at most so many frames of each clip, by number."""
    moments = [moments_of(count, frames) for count in plan["frames"].to_pylist()]
    return plan.append_column("picture_frames", pa.array(moments, pa.list_(pa.int32())))


def _with_files(
    plan: pa.Table, workspace: Workspace, media: str, longest: int
) -> Iterator[tuple[dict[str, Any], list[tuple[str, bytes]]]]:
    """Rows of a plan with their files (or none, without `media`) as (extension, bytes), so many at
    a time in memory; frames of clips with a longer side of at most `longest` pixels."""
    for table in _together(plan):
        rows = table.to_pylist()
        files: list[list[tuple[str, bytes]]] = [[] for _ in rows]
        if media in STORED_MULTI_IMAGE:
            owners, pieces = explode_pieces(table)
            for owner, data in zip(owners, workspace.images(pieces), strict=True):
                row, number = rows[owner], len(files[owner])
                name, kind = row["image_names"][number], row["image_formats"][number]
                files[owner].append((f"{name}.{kind}", data))
        elif media:
            for i, data in enumerate(workspace.images(table)):
                if media == "frames":
                    files[i] += _frames(rows[i], data, longest)
                else:
                    files[i].append((rows[i]["format"] or "bin", data))
        yield from zip(rows, files, strict=True)


def _together(plan: pa.Table) -> Iterator[pa.Table]:
    """The plan in pieces whose stored bytes are fetched together."""
    sizes = [size or 0 for size in plan["blob_size"].to_pylist()]
    if _SIZES in plan.column_names:
        pieces = plan[_SIZES].to_pylist()
        sizes = [max(size, sum(several or ())) for size, several in zip(sizes, pieces, strict=True)]
    start = held = 0
    for i, size in enumerate(sizes):
        if i > start and held + size > _READ_BYTES:
            yield plan.slice(start, i - start)
            start, held = i, 0
        held += size
    if len(plan):
        yield plan.slice(start)


def _frames(row: dict[str, Any], data: bytes, longest: int) -> list[tuple[str, bytes]]:
    """Frames of a clip as JPEG files. Raises `UnreadableClip`."""
    try:
        pictures = sample_frames(data, row["picture_frames"], longest)
        return [(f"{n}.jpg", encode_jpeg(picture)) for n, picture in enumerate(pictures)]
    except (ValueError, av.error.FFmpegError, cv2.error) as error:
        raise UnreadableClip(row["uid"], error) from error


def described_columns(plan: pa.Table) -> list[str]:
    """Columns that say something of a sample, and not where it lies."""
    return [
        name for name in plan.column_names if name not in ("part", *PLACE, *MULTI_IMAGE_COLUMNS)
    ]


def write_tar(
    file: DigestWriter, plan: pa.Table, workspace: Workspace, media: str, longest: int
) -> list[list[tuple[int, int]]]:
    """Members {key}.jpg {key}.json {key}.txt for each sample, or {key}.0.jpg, {key}.1.jpg and so on
    where there are several; returns where each sample's files lie."""
    writer = TarWriter(file)
    places = []
    as_json = JsonMembers(described_columns(plan), plan.schema)
    for row, files in _with_files(plan, workspace, media, longest):
        key = row["uid"]
        members = {
            "json": as_json(row),
            "txt": (row["caption"] or "").encode(),
            **dict(files),
        }
        at = {name: writer.add(f"{key}.{name}", members[name]) for name in sorted(members)}
        places.append([(at[name], len(data)) for name, data in files])
    writer.close()
    return places


def metadata(plan: pa.Table, places: Sequence[Sequence[tuple[int, int]]], media: str) -> pa.Table:
    """One row for each sample, explicit types; where its files lie in the tar."""
    table = plan.select(described_columns(plan)).add_column(
        0, pa.field("key", pa.string()), plan["uid"]
    )
    if any(places):
        offsets = [[offset for offset, _ in place] for place in places]
        lengths = [[size for _, size in place] for place in places]
        for one, many, values in (
            ("image_offset", "image_offsets", offsets), ("image_size", "image_sizes", lengths),
        ):  # fmt: skip
            if media in MULTI_IMAGE:
                table = table.append_column(many, pa.array(values, pa.list_(pa.int64())))
            else:
                table = table.append_column(one, pa.array([v[0] for v in values], pa.int64()))
    return table.replace_schema_metadata(None)


def write_parquet(
    file: DigestWriter, plan: pa.Table, workspace: Workspace, media: str, longest: int
) -> None:
    """Files as Hugging Face `Image` or `Video` in a column of that name, or a list of them in
    `images`, if `media` names something; captions and facts beside them."""
    columns = described_columns(plan)
    cell = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
    name = "images" if media in MULTI_IMAGE else media
    fields = [pa.field(name, pa.list_(cell) if media in MULTI_IMAGE else cell)] if media else []
    fields += [plan.schema.field(column) for column in columns]
    features = _hf_features(plan.schema, columns, media)
    schema = pa.schema(fields).with_metadata({"huggingface": features})
    with pq.ParquetWriter(pa.PythonFile(file, "w"), schema, compression="zstd") as writer:
        with_files = _with_files(plan, workspace, media, longest) if media else iter(())
        for start in range(0, len(plan), _GROUP_ROWS):
            table = plan.slice(start, _GROUP_ROWS)
            rows: list[pa.ChunkedArray] = [table[column] for column in columns]
            if media:
                cells = [
                    [
                        {"bytes": data, "path": f"{row['uid']}.{extension}"}
                        for extension, data in files
                    ]
                    for row, files in itertools.islice(with_files, len(table))
                ]
                values = cells if media in MULTI_IMAGE else [files[0] for files in cells]
                rows.insert(0, pa.array(values, fields[0].type))
            writer.write_table(pa.table(rows, schema=schema), row_group_size=_GROUP_ROWS)


def _hf_features(schema: pa.Schema, columns: Sequence[str], media: str) -> str:
    features: dict[str, object] = {}
    if media in MULTI_IMAGE:
        features["images"] = {"feature": {"_type": "Image"}, "length": -1, "_type": "Sequence"}
    elif media:
        features[media] = {"_type": media.capitalize()}
    for name in columns:
        features[name] = _hf_feature(schema.field(name).type)
    return json.dumps({"info": {"features": features}})


def _hf_feature(kind: pa.DataType) -> dict[str, object]:
    if pa.types.is_list(kind):
        # Of objects, `Sequence` is an object of lists.
        of_objects = pa.types.is_struct(kind.value_type)
        return {
            "feature": _hf_feature(kind.value_type),
            **({} if of_objects else {"length": -1}),
            "_type": "List" if of_objects else "Sequence",
        }
    if pa.types.is_struct(kind):
        return {field.name: _hf_feature(field.type) for field in kind}
    names = {"double": "float64", "float": "float32", "halffloat": "float16"}
    return {"dtype": names.get(str(kind), str(kind)), "_type": "Value"}
