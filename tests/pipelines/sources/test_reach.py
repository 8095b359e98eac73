"""What people have on their disks: names that tell no format, marks and thumbnails of machines,
folders that others wrote, pictures in lists and beside tables."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback import Loopback
from source_files import bytes_of, jpeg, read

from gristmill.errors import SourceError
from gristmill.pipelines.schema import make_image_id, make_uid
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.formats import detect
from gristmill.pipelines.sources.source import Source

LINES = [{"url": f"http://h/{i},1.jpg", "caption": f"a {i}"} for i in range(5)]


def written(form: str) -> bytes:
    if form == "jsonl":
        return "".join(json.dumps(line) + "\n" for line in LINES).encode()
    if form == "json":
        return json.dumps(LINES, indent=1).encode()
    if form == "txt":
        return "".join(line["url"] + "\n" for line in LINES).encode()
    mark, quote = ("\t", "") if form == "tsv" else (",", '"')
    rows = [["url", "caption"], *([quote + x + quote for x in line.values()] for line in LINES)]
    return "".join(mark.join(row) + "\n" for row in rows).encode()


def packed(data: bytes, ending: str) -> bytes:
    if ending in ("zst", "lz4"):
        codec = {"zst": "zstd", "lz4": "lz4"}[ending]
        return bytes(pa.compress(data, codec=codec, asbytes=True))
    return {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[ending](data)


@pytest.mark.parametrize("ending", ["", "gz", "bz2", "xz", "zst", "lz4"])
@pytest.mark.parametrize("form", ["jsonl", "json", "txt", "csv", "tsv"])
def test_a_name_that_tells_nothing_is_no_hindrance(tmp_path: Path, form: str, ending: str) -> None:
    data = packed(written(form), ending)
    dot = "." if ending else ""
    for name in (f"part-00000{dot}{ending}", f"list.{form}{dot}{ending}"):
        (tmp_path / name).write_bytes(data)
        rows = read(tmp_path / name)
        assert [row["url"] for row in rows] == [line["url"] for line in LINES], name
        estimate = Source(path=str(tmp_path / name)).estimate_rows()
        assert estimate is not None and abs(estimate - len(LINES)) <= 1, (name, estimate)


@pytest.mark.parametrize("ending", ["gz", "bz2", "xz", "zst"])
def test_rows_of_a_large_packed_list_are_estimated_by_its_head(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gristmill.pipelines.sources.chunks._HEAD", 2**21)
    lines = "".join(f'{{"url": "http://h/{i * 7919 % 1_000_003}.jpg"}}\n' for i in range(100_000))
    (tmp_path / "list").write_bytes(packed(lines.encode(), ending))
    estimate = Source(path=str(tmp_path / "list")).estimate_rows()
    assert estimate is not None and 60_000 < estimate < 150_000


def test_a_tar_and_a_parquet_without_ending(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["http://h/1"]}), tmp_path / "table")
    with tarfile.open(tmp_path / "shard", "w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(jpeg())
        tar.addfile(info, io.BytesIO(jpeg()))
    assert read(tmp_path / "table")[0]["url"] == "http://h/1"
    assert bytes_of(read(tmp_path / "shard")) == [jpeg()]
    (tmp_path / "shard.gz").write_bytes(gzip.compress((tmp_path / "shard").read_bytes(), mtime=0))
    assert bytes_of(read(tmp_path / "shard.gz")) == [jpeg()]


@pytest.mark.parametrize("data", [b"", b"\0\1\2", b"\xff\xfe\xfd", b"a word", b"\x1f\x8b cut"])
def test_what_cannot_be_told_is_said_with_the_remedy(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "thing").write_bytes(data)
    with pytest.raises(SourceError, match=r"the format cannot be told.*e\.g\. csv:"):
        detect("auto", str(tmp_path / "thing"))


def test_marks_of_writers_and_machines_are_no_rows(tmp_path: Path) -> None:
    """As Spark, Databricks, Delta Lake, a Mac and a Synology leave them."""
    spark = tmp_path / "spark"
    (spark / "_delta_log").mkdir(parents=True)
    for i in range(2):
        data = b"".join(written("jsonl").splitlines(keepends=True)[i : i + 1])
        (spark / f"part-0000{i}-tid-1.json.gz").write_bytes(gzip.compress(data, mtime=0))
    for name in ("_SUCCESS", "_committed_1", "_started_1", "._part-00000", ".part-0.json.crc"):
        (spark / name).write_bytes(b"\0\5\x16\7")
    (spark / "_delta_log/00000.json").write_text("{}")
    pq.write_table(pa.table({"version": [1]}), spark / "_delta_log/00000.checkpoint.parquet")
    (spark / "_metadata").write_bytes(b"PAR1")
    assert [row["url"] for row in read(spark / "*.json.gz")] == [x["url"] for x in LINES[:2]]
    assert [row["url"] for row in read(spark / "*")] == [x["url"] for x in LINES[:2]]
    pictures = tmp_path / "pictures"
    (pictures / "@eaDir/a.jpg").mkdir(parents=True)
    (pictures / "_DSC0001").mkdir()
    for name in ("a.jpg", "_DSC0002.jpg", "_DSC0001/b.jpg"):
        (pictures / name).write_bytes(jpeg())
    for name in ("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "._a.jpg", "Thumbs.db"):
        (pictures / name).write_bytes(jpeg(1))
    found = read(pictures)
    assert len(found) == 3 and bytes_of(found) == [jpeg()] * 3
    assert "3 hidden files" in Source(path=str(pictures)).notes()[0]


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet"])
def test_tables_below_a_folder_without_pictures(tmp_path: Path, form: str) -> None:
    for split in ("date=2024-01-01", "date=2024-01-02"):
        (tmp_path / split).mkdir()
        path = tmp_path / split / f"part-0.{form}"
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(LINES), path)
        else:
            path.write_bytes(written(form))
    (tmp_path / "README.md").write_text("of somebody")
    assert len(read(tmp_path)) == 2 * len(LINES)
    assert any("README" in note or ".md" in note for note in Source(path=str(tmp_path)).notes())


# -- pictures in lists, in several columns, beside a table --------------------------------------


def embedded(rows: list[dict[str, Any]], features: datasets.Features, path: Path) -> Path:
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(path))
    return path


IMAGE, TEXT = datasets.Image(), datasets.Value("string")


def test_lists_of_pictures_as_finevision_and_the_cauldron_have_them(tmp_path: Path) -> None:
    turns = [{"user": "What is this?", "assistant": "A boat."}, {"user": "So?", "assistant": "Y"}]
    features = datasets.Features(
        {"images": datasets.List(IMAGE), "texts": [{"user": TEXT, "assistant": TEXT}]}
    )
    cells: list[list[dict[str, Any]] | None] = [
        [{"bytes": jpeg(i), "path": None} for i in range(count)] for count in (1, 2, 0)
    ]
    rows = [{"images": cell, "texts": turns} for cell in (*cells, None)]
    path = embedded(rows, features, tmp_path / "a.parquet")
    found = read(path)
    assert [row["error"] for row in found] == [
        None,
        "several pictures in one row",
        *["no image"] * 2,
    ]
    assert bytes_of(found[:1]) == [jpeg(0)] and found[0]["caption"] == "A boat."
    assert json.loads(found[0]["meta"])["texts"] == turns
    assert len({row["uid"] for row in found}) == 3, "two rows without picture say the same"


def test_of_several_columns_of_pictures_the_usual_one_is_taken(tmp_path: Path) -> None:
    features = datasets.Features({"mask": IMAGE, "image": IMAGE, "text": TEXT})
    cell = {"mask": {"bytes": jpeg(1), "path": None}, "image": {"bytes": jpeg(2), "path": None}}
    path = embedded([{**cell, "text": "a"}], features, tmp_path / "a.parquet")
    assert bytes_of(read(path)) == [jpeg(2)]
    assert bytes_of(read(path, columns={"image": "mask"})) == [jpeg(1)]
    [note] = Source(path=str(path)).notes()
    assert "from the column image; those in mask" in note
    [note] = Source(path=str(path), columns={"image": "mask"}).notes()
    assert "from the column mask; those in image" in note


def test_pictures_that_a_table_only_names_lie_beside_it(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        {"bytes": None, "path": "pics/a.jpg"}, {"bytes": None, "path": "../b.jpg"},
        {"bytes": None, "path": "http://h/c.jpg"}, {"bytes": None, "path": None},
    ]  # fmt: skip
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "a.parquet")
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/a.jpg").write_bytes(jpeg())
    found = read(tmp_path / "a.parquet")
    assert bytes_of(found[:1]) == [jpeg()]
    assert [row["error"] for row in found] == [None, "path leaves the folder", None, "no image"]
    assert found[2]["url"] == "http://h/c.jpg"


# -- img2dataset's outputs, made by img2dataset -------------------------------------------------

# In one process: each of its own would import all that it has.
PROGRAM = """
import importlib, sys, types
main = importlib.import_module("img2dataset.main")
main.LoggerProcess = lambda *_: types.SimpleNamespace(start=lambda: None, join=lambda: None)
main.multiprocessing_distributor = lambda _, downloader, reader, *__: list(map(downloader, reader))
urls, out, *forms = sys.argv[1:]
for form in forms:
    main.download(url_list=urls, input_format="parquet", url_col="url", caption_col="caption",
                  output_folder=f"{out}/{form}", output_format=form, processes_count=1,
                  thread_count=4, number_sample_per_shard=3, enable_wandb=False,
                  save_additional_columns=["similarity"], encode_quality=100)
"""
FORMS = ("files", "webdataset", "parquet")


@pytest.fixture
def img2dataset_outputs(server: Loopback, tmp_path: Path) -> Path:
    server.pages = {f"/{i}.jpg": large(i) for i in range(4)} | {"/bad.jpg": b"no picture"}
    urls = [server.url(path) for path in (*server.pages, "/absent.jpg")]
    table = {"url": urls, "caption": [f"picture {i}" for i in range(6)], "similarity": [0.25] * 6}
    pq.write_table(pa.table(table), tmp_path / "urls.parquet")
    program = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path / "urls.parquet")]
    environment = os.environ | {"WANDB_MODE": "disabled", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [*program, str(tmp_path), *FORMS], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return tmp_path


def large(seed: int) -> bytes:
    """A picture that img2dataset scales to 256 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 12, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).resize((300, 200)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_all_three_outputs_of_img2dataset_are_the_same_rows(img2dataset_outputs: Path) -> None:
    # Theirs come as their threads were done.
    found = {
        form: sorted(read(img2dataset_outputs / form), key=lambda row: str(row["url"]))
        for form in FORMS
    }
    first = found["webdataset"]
    said = [(row["caption"], row["status"], (row["error"] or "")[:14]) for row in first]
    assert sorted(said) == [
        *[(f"picture {i}", "pending", "") for i in range(4)],
        ("picture 4", "failed_to_resize", "Image decoding"),
        ("picture 5", "failed_to_download", "HTTP Error 404"),
    ]
    assert all(json.loads(row["meta"])["similarity"] == 0.25 for row in first)
    names = ("uid", "url", "caption", "status", "error")
    for rows in found.values():
        assert [[row[n] for n in names] for row in rows] == [
            [row[n] for n in names] for row in first
        ]
        whole = [row for row in rows if row["status"] == "pending"]
        expected = [row for row in first if row["status"] == "pending"]
        assert bytes_of(whole) == bytes_of(expected)


# -- a tar as a Mac makes it --------------------------------------------------------------------


def test_a_tar_of_a_mac_has_its_files_once(tmp_path: Path) -> None:
    """Each file has an AppleDouble beside it, and pax headers with attributes and split seconds."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(3):
            for name, data in ((f"{i}.jpg", jpeg(i)), (f"{i}.txt", f"Bild für {i}".encode())):
                for path, content in (
                    (f"./._{name}", b"\0\5\x16\7" + bytes(158)),
                    (f"./{name}", data),
                ):
                    info = tarfile.TarInfo(path)
                    info.size, info.mtime = len(content), 1700000000.123456
                    info.uname, info.gname = "jürgen", "staff"
                    info.pax_headers = {
                        "SCHILY.xattr.com.apple.quarantine": "0081;5f;Safari;",
                        "LIBARCHIVE.xattr.com.apple.metadata": "YnBsaXN0",
                        "mtime": "1700000000.123456",
                    }
                    tar.addfile(info, io.BytesIO(content))
    found = read(tmp_path / "a.tar")
    assert [row["caption"] for row in found] == [f"Bild für {i}" for i in range(3)]
    assert bytes_of(found) == [jpeg(i) for i in range(3)]
    assert "6 dot files" in Source(path=str(tmp_path / "a.tar")).notes()[0]


# -- a phone's folder ---------------------------------------------------------------------------


def test_sidecars_of_phones_takeouts_and_trainers(tmp_path: Path) -> None:
    """x.txt, x.caption, x.jpg.txt, x.jpg.json and Google's own, whose title is the file's name."""
    names = ["IMG_0001.HEIC", "IMG_0002.JPG", "c.jpg", "d.jpg", "e.jpg", "f.jpg", "f.png"]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(jpeg(i))
    told = {"title": "IMG_0002.JPG", "description": "two dogs", "url": "https://photos/2"}
    (tmp_path / "IMG_0001.txt").write_text("a boat")
    (tmp_path / "IMG_0001.AAE").write_text("<plist/>")
    (tmp_path / "IMG_0001.MOV").write_bytes(b"live")
    (tmp_path / "IMG_0002.JPG.supplemental-metadata.json").write_text(json.dumps(told))
    (tmp_path / "c.caption").write_text("a cat")
    (tmp_path / "d.jpg.txt").write_text("a duck")
    (tmp_path / "e.jpg.json").write_text(json.dumps({"caption": "an egg", "iso": 100}))
    (tmp_path / "f.jpg.txt").write_text("a fish")
    (tmp_path / "f.png.txt").write_text("a fork")
    found = read(tmp_path)
    assert [row["error"] for row in found] == [None] * len(names)
    assert [row["caption"] for row in found] == [
        "a boat", "two dogs", "a cat", "a duck", "an egg", "a fish", "a fork",
    ]  # fmt: skip
    assert json.loads(found[4]["meta"]) == {"iso": 100}
    [note] = Source(path=str(tmp_path)).notes()
    assert "1 .AAE, 1 .MOV" in note and ".txt" not in note


def test_several_pictures_in_a_row_are_a_document(tmp_path: Path) -> None:
    """Turns of a conversation behind their pictures, and pictures between texts, in the table."""
    turns = [{"user": "Which is larger?", "assistant": "The first."}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [{"bytes": jpeg(i), "path": None} for i in range(2)]
    talk = pa.table({"images": pa.array([cells], pa.list_(kind)), "texts": [turns]})
    between = pa.table({
        "images": pa.array([[None, jpeg(3), None]], pa.list_(pa.binary())),
        "texts": [["before", None, "after"]],
    })  # fmt: skip
    pq.write_table(talk, tmp_path / "talk.parquet")
    pq.write_table(between, tmp_path / "between.parquet")
    found = {}
    for name in ("talk", "between"):
        source = DocumentSource(path=str(tmp_path / f"{name}.parquet"))
        source.check_columns()
        [row] = [r for c in source.chunks() for t in source.read(c) for r in t.to_pylist()]
        assert row["error"] is None
        document = json.loads(row["meta"])["document"]
        found[name] = document["texts"], [image["place"] for image in document["images"]]
        pictures = bytes_of(document["images"])
        assert pictures == ([jpeg(0), jpeg(1)] if name == "talk" else [jpeg(3)])
    assert found["talk"] == (["Which is larger?", "The first."], [0, 0])
    assert found["between"] == (["before", "after"], [1])


# -- files of one name in several places --------------------------------------------------------


def places(home: Path) -> dict[str, str]:
    """Sources with `0.jpg` in two places, which hold other pictures."""
    for i, split in enumerate(("train", "test")):
        for form in ("tables", "folders", "lists"):
            (home / form / split).mkdir(parents=True)
            (home / form / split / "0.jpg").write_bytes(jpeg(i))
        (home / "tables" / split / "metadata.csv").write_text("file_name,text\n0.jpg,a\n")
        (home / "lists" / split / "list.jsonl").write_text('{"path": "0.jpg", "caption": "a"}\n')
    return {
        "tables": str(home / "tables"),
        "folders": f"{home / 'folders/train'},{home / 'folders/test'}",
        "lists": f"{home}/lists/*/list.jsonl",
    }


@pytest.mark.parametrize("form", ["tables", "folders", "lists"])
def test_files_of_one_name_in_several_places_are_several_pictures(
    tmp_path: Path, form: str
) -> None:
    """Their rows had one `image_id`: of the two pictures one was fetched for both, or one row was
    dropped as repeated."""
    rows = read(places(tmp_path)[form])
    assert {*bytes_of(rows)} == {jpeg(0), jpeg(1)}
    assert len({row["image_id"] for row in rows}) == len({row["uid"] for row in rows}) == 2
    alone = read(tmp_path / form / "train")
    assert alone[0]["uid"] == make_uid("path", "0.jpg", alone[0]["caption"]), "as it always was"


def test_where_the_places_lie_is_nothing(tmp_path: Path) -> None:
    for name in ("here", "there"):
        places(tmp_path / name)
    for form, source in places(tmp_path / "third").items():
        uids = {
            tuple(row["uid"] for row in read(source.replace("third", name)))
            for name in ("here", "there")
        }
        assert len(uids) == 1, form


def test_nothing_between_commas_is_not_the_folder_that_we_are_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.csv", "b.csv", "other.csv"):
        (tmp_path / name).write_text(f"url\nhttp://h/{name}\n")
    assert [row["url"] for row in read("a.csv,,b.csv,")] == ["http://h/a.csv", "http://h/b.csv"]
    with pytest.raises(SourceError, match="a source without a path"):
        read("csv:")


def test_capitals_are_no_other_format(tmp_path: Path) -> None:
    """They were a recursion without end."""
    pq.write_table(pa.table({"url": ["http://h/1"]}), tmp_path / "A.PARQUET")
    assert read(tmp_path)[0]["url"] == "http://h/1"


def test_what_lies_below_tables_is_noted(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for path in (tmp_path / "a.parquet", tmp_path / "more/b.parquet"):
        pq.write_table(pa.table({"url": ["http://h/1"]}), path)
    assert len(read(tmp_path)) == 1
    assert "not read: 1 .parquet" in Source(path=str(tmp_path)).notes()[0]


def test_one_file_has_one_name_however_it_is_spelt(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg())
    spelt = ["1.jpg", "./1.jpg", str(tmp_path / "1.jpg")]
    (tmp_path / "a.txt").write_text("\n".join(spelt))
    rows = read(tmp_path / "a.txt")
    assert {row["image_id"] for row in rows} == {make_image_id("path", "1.jpg")}


def test_lists_of_one_in_cells_are_that_one(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(jpeg())
    cells = [
        {"image": ["1.jpg"]},
        {"url": ["http://h/1"]},
        {"image": ["1.jpg", "2.jpg"]},
        {"image": []},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, cells)))
    rows = read(tmp_path / "a.jsonl")
    errors = [None, None, "several pictures in one row", "no url"]
    assert [row["error"] for row in rows] == errors and bytes_of(rows[:1]) == [jpeg()]


@pytest.mark.parametrize("kind", [pa.list_(pa.binary(), 1), pa.list_(pa.binary_view())])
def test_lists_of_a_fixed_size_and_views_are_lists_of_bytes(
    kind: pa.DataType, tmp_path: Path
) -> None:
    pq.write_table(pa.table({"image": pa.array([[jpeg(4)]], kind)}), tmp_path / "a.parquet")
    assert bytes_of(read(tmp_path / "a.parquet")) == [jpeg(4)]
