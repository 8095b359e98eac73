"""Sources: every format people have, typed alike, nothing lost, uids that never change."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import xxhash
from source_files import bytes_of, jpeg, read

from gristmill.errors import ConfigurationError, SourceError
from gristmill.pipelines.schema import (
    make_child_uid,
    make_image_id,
    make_uid,
    normalise_url,
)
from gristmill.pipelines.sources.pointer import PointerError, read_pointers
from gristmill.pipelines.sources.source import Source

# Published with the definition: whoever makes uids elsewhere can check theirs against these.
UID_VECTORS = [
    ("url", "http://example.com/a.jpg", "a cat", "130387142e5a7cbeb32f7857cb99be37"),
    ("url", "http://example.com/a.jpg", None, "2667de2362b009f7078ced6ecdaff0eb"),
    ("url", "http://example.com/a.jpg", "", "2667de2362b009f7078ced6ecdaff0eb"),
    ("url", "https://example.com/ä?q=1", "日本語", "4928ed695420010c19ba165e800324bb"),
    ("url", "", None, "d839a8eec58114ef3f0d055ac30b1a6c"),
    ("path", "folder/a.jpg", None, "6b0cc587d643bca991aed46444a0b632"),
    ("path", "folder/a.jpg", "x", "a54125111b20a6e676cde9fd0beec688"),
    (
        "bytes",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "x",
        "19611db15ebc28a015d9db3ba3d01905",
    ),
    (
        "bytes",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        None,
        "402762ebaa1e2fbedf7b4219a86315a8",
    ),
]
CHILD_VECTOR = ("p" * 32, "clips", 3, "bc415a72e7599ebdac6eda8eedbf1363")


def test_uid_vectors() -> None:
    """xxh3-128 of fields, each with its length before it (8 bytes, little-endian), in UTF-8."""

    def defined(*fields: str) -> str:
        encoded = [field.encode() for field in fields]
        data = b"".join(len(one).to_bytes(8, "little") + one for one in encoded)
        return xxhash.xxh3_128_hexdigest(data)

    for kind, locator, caption, uid in UID_VECTORS:
        assert make_uid(kind, locator, caption) == uid == defined(kind, locator, caption or "")
        assert make_image_id(kind, locator) == defined(kind, locator)
    parent, stage, ordinal, uid = CHILD_VECTOR
    assert make_child_uid(parent, stage, ordinal) == uid
    assert uid == defined("child", parent, stage, str(ordinal))
    assert make_uid("url", "ab", "c") != make_uid("url", "a", "bc")


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("HTTP://Example.COM/A.jpg#top", "http://example.com/A.jpg"),
        ("https://User:PW@EXAMPLE.com:80?Q=A#x", "https://User:PW@example.com:80?Q=A"),
        ("  http://a.b/c  ", "http://a.b/c"),
        ("no url", "no url"),
    ],
)
def test_urls_are_normalised_no_further_than_said(given: str, normal: str) -> None:
    assert normalise_url(given) == normal


TABLE = {
    "URL": ["http://a/1.jpg", "http://a/2.jpg", None],
    "TEXT": ["one", None, "drei"],
    "WIDTH": [10, 20, 30],
    "LICENSE": ["CC", None, "?"],
    "similarity": [0.5, float("nan"), None],
}


def test_laion_like_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table(TABLE), tmp_path / "part.parquet", row_group_size=2)
    rows = read(tmp_path / "part.parquet")
    assert [row["url"] for row in rows] == ["http://a/1.jpg", "http://a/2.jpg", ""]
    assert [row["caption"] for row in rows] == ["one", None, "drei"]
    assert [row["original_width"] for row in rows] == [10, 20, 30]
    assert [row["licence"] for row in rows] == ["CC", None, "?"]
    assert json.loads(rows[1]["meta"]) == {"similarity": None}
    assert (
        rows[0]["uid"] == make_uid("url", "http://a/1.jpg", "one") and rows[0]["source"] == "part"
    )
    assert [row["row"] for row in rows] == [0, 1, 2]


def test_csv_tsv_json_lines_and_lists_say_the_same(tmp_path: Path) -> None:
    captions = ["plain, with comma", 'a "quote"', "zwei\nLinien", "日本"]
    urls = [f"http://a/{i}.jpg" for i in range(4)]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("url", "caption"), *zip(urls, captions, strict=True)])
    lines = [json.dumps({"url": u, "text": c}) for u, c in zip(urls, captions, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write("\n".join(lines))
    for name in ("a.csv", "a.jsonl", "b.jsonl.gz"):
        assert [row["caption"] for row in read(tmp_path / name)] == captions
    (tmp_path / "a.txt").write_text("\n".join(urls))
    assert [row["url"] for row in read(tmp_path / "a.txt")] == urls


def test_a_tsv_without_header_is_understood(tmp_path: Path) -> None:
    (tmp_path / "cc12m.tsv").write_text('http://a/1\ta "bare quote\nhttp://a/2\ttwo\n')
    rows = read(tmp_path / "cc12m.tsv")
    assert [(row["url"], row["caption"]) for row in rows] == [
        ("http://a/1", 'a "bare quote'),
        ("http://a/2", "two"),
    ]


def test_a_broken_json_line_is_a_failed_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"url": "http://a/1"}\n{"url": \n[]\n')
    rows = read(tmp_path / "a.jsonl")
    assert [row["error"] for row in rows] == [None, "broken json line", "broken json line"]


def test_columns_are_mapped_and_wrong_ones_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"link": ["http://a/1"], "words": ["hi"]}), tmp_path / "a.parquet")
    mapping = {"url": "link", "caption": "words"}
    assert read(tmp_path / "a.parquet", columns=mapping)[0]["caption"] == "hi"
    with pytest.raises(SourceError, match="name it with --column url=link"):
        read(tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="did you mean 'link'"):
        read(tmp_path / "a.parquet", columns={"url": "linc"})


def test_latin1_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("url,caption\nhttp://a/1,caf\xe9\n".encode("latin1"))
    with pytest.raises(SourceError, match="iconv"):
        read(tmp_path / "a.csv")


def test_embedded_bytes_as_hugging_face_writes_them(tmp_path: Path) -> None:
    pictures = [jpeg(i) for i in range(150)]
    cells = [{"bytes": data, "path": None} for data in pictures] + [{"bytes": None, "path": "x"}]
    captions = [f"c{i}" for i in range(151)]
    table = pa.table({"image": cells, "caption": captions})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    rows = read(tmp_path / "a.parquet")
    assert [row["sha256"] for row in rows[:-1]] == [hashlib.sha256(d).hexdigest() for d in pictures]
    assert rows[-1]["error"] == "no image"
    assert bytes_of(rows[:-1]) == pictures
    assert rows[0]["uid"] == make_uid("bytes", rows[0]["sha256"], "c0")


@pytest.mark.parametrize("name", ["shard.tar", "shard.tgz"])
def test_tars_written_by_webdataset(name: str, tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / name)) as writer:
        for i in range(5):
            sample = {"__key__": f"s{i}", "jpg": jpeg(i), "json": {"license": "CC", "i": i}}
            writer.write({**sample, "txt": f"caption {i}"})
        writer.write({"__key__": "text-only", "txt": "no picture"})
    rows = read(tmp_path / name)
    assert [row["caption"] for row in rows] == [f"caption {i}" for i in range(5)] + ["no picture"]
    assert rows[5]["error"] == "no image member" and rows[0]["licence"] == "CC"
    assert bytes_of(rows[:5]) == [jpeg(i) for i in range(5)]


def test_a_truncated_tar_gives_what_it_has_and_says_so(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for i in range(5):
            writer.write({"__key__": f"s{i}", "jpg": jpeg(i)})
    data = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(data[:3000])
    rows = read(tmp_path / "a.tar")
    assert rows[-1]["error"] == "truncated tar" and 1 < len(rows) < 6
    assert bytes_of(rows[:1]) == [jpeg(0)]


def test_img2dataset_output(tmp_path: Path) -> None:
    facts = []
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for i in range(4):
            good = i != 2
            facts.append(
                {
                    "url": f"http://a/{i}",
                    "caption": f"c{i}",
                    "key": f"{i:09d}",
                    "status": "success" if good else "failed_to_download",
                    "error_message": None if good else "HTTP Error 404",
                    "width": 8,
                }
            )
            if good:
                info = tarfile.TarInfo(f"{i:09d}.jpg")
                info.size = len(jpeg(i))
                tar.addfile(info, io.BytesIO(jpeg(i)))
    pq.write_table(pa.Table.from_pylist(facts), tmp_path / "00000.parquet")
    rows = read(tmp_path)
    assert [row["error"] for row in rows] == [None, None, "HTTP Error 404", None]
    assert bytes_of([row for row in rows if row["pointer"]]) == [jpeg(i) for i in (0, 1, 3)]
    assert rows[0]["uid"] == make_uid("url", "http://a/0", "c0")


def test_a_folder_with_sidecars(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.jpg", "sub/b.PNG", "c.svg", "notes.doc", ".hidden.jpg"):
        (tmp_path / name).write_bytes(jpeg())
    (tmp_path / "a.txt").write_text("a caption\n")
    (tmp_path / "sub/b.json").write_text('{"caption": "from json", "camera": "x"}')
    rows = read(tmp_path)
    assert [row["caption"] for row in rows] == ["a caption", None, "from json"]
    assert json.loads(rows[2]["meta"]) == {"camera": "x"}
    assert rows[0]["uid"] == make_uid("path", "a.jpg", "a caption")
    assert "1 .doc" in Source(path=str(tmp_path)).notes()[0]
    assert len(read(tmp_path, extensions=("*",))) == 6


def test_coco_captions_with_a_folder_and_without(tmp_path: Path) -> None:
    document = {
        "licenses": [{"id": 4, "name": "Attribution"}],
        "images": [
            {
                "id": 1,
                "file_name": "1.jpg",
                "license": 4,
                "width": 9,
                "height": 8,
                "coco_url": "http://c/1",
            },
            {"id": 2, "file_name": "../2.jpg", "license": 9, "coco_url": "http://c/2"},
        ],
        "annotations": [{"id": i, "image_id": 1, "caption": f"c{i}"} for i in range(5)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(document))
    (tmp_path / "images" / "val").mkdir(parents=True)
    (tmp_path / "images" / "val" / "1.jpg").write_bytes(jpeg())
    rows = read(f"coco:{tmp_path}/captions.json", images=str(tmp_path / "images"))
    assert [row["caption"] for row in rows] == ["c0", "c1", "c2", "c3", "c4", None]
    assert len({row["image_id"] for row in rows}) == 2 and rows[0]["licence"] == "Attribution"
    assert bytes_of(rows[:1]) == [jpeg()]
    assert rows[5]["error"] == "path leaves the folder"
    assert [row["url"] for row in read(tmp_path / "captions.json")] == ["http://c/1"] * 5 + [
        "http://c/2"
    ]


def test_a_link_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    assert [row["error"] for row in read(tmp_path / "folder")] == ["path leaves the folder"]


def test_globs_lists_and_other_file_systems(tmp_path: Path) -> None:
    import fsspec

    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"http://a/{i}")
        with fsspec.open(f"memory://sources/{i}.txt", "w") as file:
            file.write(f"http://a/{i}")
    expected = [f"http://a/{i}" for i in range(3)]
    assert [row["url"] for row in read(tmp_path / "*.txt")] == expected
    both = f"{tmp_path}/1.txt,{tmp_path}/0.txt"
    assert [row["url"] for row in read(both)] == [expected[1], expected[0]]
    assert [row["url"] for row in read("memory://sources/*.txt")] == expected


def test_a_long_source_comes_in_small_tables(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n".join(f"http://a/{i}" for i in range(12_000)))
    source = Source(path=str(tmp_path / "a.txt"))
    sizes = [len(table) for chunk in source.chunks() for table in source.read(chunk)]
    assert len(sizes) >= 3 and sum(sizes) == 12_000


def test_a_pointer_that_leads_nowhere_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(100))
    path = str(tmp_path / "a.bin")
    pointers = [f"file:{path}", f"file:{path}.no", f"tar:{path}#90+20", f"tarz:{path}#0", "odd:x"]
    found = {
        i: str(x) if isinstance(x, PointerError) else len(x) for i, x in read_pointers(pointers, 99)
    }
    assert found == {
        0: "too large", 1: "file not found", 2: "truncated file", 3: "truncated file",
        4: "unknown pointer",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "message"),
    [("", "has no path"), ("catalog:cc12m@x", "resolved by the command line")],
)
def test_fields_that_cannot_work(path: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Source(path=path).check()


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("")
    (tmp_path / "b.parquet").write_text("no parquet")
    (tmp_path / "c.json").write_text("{}")
    for path, message in {
        "nowhere.csv": "does not exist",
        "*.csv": "no file matches",
        "a.xyz": "format cannot be told",
        "b.parquet": "is not a Parquet file",
        "c.json": "nor a COCO captions file",
    }.items():
        with pytest.raises(SourceError, match=message):
            Source(path=str(tmp_path / path)).chunks()


def test_paths_that_mean_the_same_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = Source(path="coco:a/captions.json, b/c.csv", images="pictures")
    found = source.absolute()
    where = str(tmp_path)
    assert found.path == f"coco:{where}/a/captions.json,{where}/b/c.csv"
    assert found.images == f"{where}/pictures" and found.absolute() == found
    assert Source(path="memory://x/*.tar").absolute() == Source(path="memory://x/*.tar")
