"""JSON lines and lists of URLs: each line is a row, or a row with its reason."""

from __future__ import annotations

import bz2
import gc
import json
import lzma
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_files import bytes_of, jpeg, read, write_tar

from gristmill.errors import SourceError
from gristmill.pipelines.sources.source import Source


def read_rows(path: Path) -> list[dict[str, object]]:
    """Rows of a source that may have none."""
    source = Source(path=str(path))
    tables = [table for chunk in source.chunks() for table in source.read(chunk)]
    return [row for table in tables for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"url": ', "broken json line"),
        (b"[]", "broken json line"),
        (b"[" * 5000, "broken json line"),
        (b'{"url": "http://h/1", "n": ' + b"9" * 5000 + b"}", "broken json line"),
        (b'{"url": "http://h/1", "url": "http://h/2"}', "two keys of one name"),
        (b'{"url": "http://h/1", "x": {"a": 1, "a": 2}}', "two keys of one name"),
        (b'{"url": "http://h/1", "caption": "caf\xe9"}', "text is not UTF-8"),
        (b'{"caption": "a"}', "no url"),
        (b'{"path": 7, "caption": "a"}', "local path, not a url"),
        (b'{"path": "../own.png", "caption": "a"}', "path leaves the folder"),
        (b'{"file_name": "/etc/own.png", "url": null}', "path leaves the folder"),
        (b'{"url": null}', "no url"),
        (b'{"url": "  "}', "no url"),
        (b'{"url": {"at": "http://h/1"}}', "url is not text"),
        (b'{"url": {"href": "http://h/1"}}', "url is not text"),
    ],
)
def test_a_line_that_is_no_row_has_its_reason(line: bytes, reason: str, tmp_path: Path) -> None:
    good = [b'{"url": "http://h/%d", "caption": "\xc3\xa4"}' % i for i in range(10, 30)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*good[:5], line, *good[5:]]))
    rows = read(tmp_path / "a.jsonl")
    failed = {row["row"]: row["error"] for row in rows if row["error"]}
    assert len(rows) == 21 and failed == {5: reason}


def test_what_is_nested_deeply_does_not_end_a_run(tmp_path: Path) -> None:
    deep = "[" * 900 + "]" * 900
    (tmp_path / "a.jsonl").write_text(f'{{"url": "http://h/1", "x": {deep}}}\n')
    row = read(tmp_path / "a.jsonl")[0]
    assert "nested too deeply" in row["meta"] or row["error"] == "broken json line"


@pytest.mark.parametrize("path", ["/data/a", "../a", "~/../../a", r"C:\pics\a.jpg"])
def test_a_path_out_of_the_folder_is_refused(path: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(path)
    assert [row["error"] for row in read(tmp_path / "a.txt")] == ["path leaves the folder"]


@pytest.mark.parametrize(
    "path", ["x.jpg", "pictures/x.jpg", "./x.jpg", r"pictures\x.jpg", "FOLDER/pictures/x.jpg"]
)
@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("column", ["path", "file_name", "image", "url"])
def test_files_that_a_table_names(path: str, kind: str, column: str, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for place in ("x.jpg", "pictures/x.jpg"):
        (tmp_path / place).write_bytes(jpeg())
    name = path.replace("FOLDER", str(tmp_path))
    rows = [{column: name, "caption": "a"}, {column: "gone/b.jpg", "caption": "b"}]
    table = pa.Table.from_pylist(rows)
    file = tmp_path / f"a.{kind}"
    if kind == "txt":
        file.write_text(f"{name}\ngone/b.jpg\n")
    elif kind == "parquet":
        pq.write_table(table, file)
    elif kind == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "json":
        file.write_text(json.dumps(rows))
    else:
        lines = [list(rows[0]), *[list(row.values()) for row in rows]]
        file.write_text("".join(("\t" if kind == "tsv" else ",").join(x) + "\n" for x in lines))
    Source(path=str(file)).check_columns()
    found, gone = read(file)
    assert (found["error"], gone["error"]) == (None, None)
    assert found["caption"] == (None if kind == "txt" else "a")
    assert bytes_of([found]) == [jpeg()]
    assert "gone" in gone["pointer"], "the download says that it is not there"


def test_pictures_may_lie_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/x.jpg").write_bytes(jpeg())
    (tmp_path / "lists/a.csv").write_text("file,text\nx.jpg,a\n../lists/a.csv,b\n")
    found, out = read(tmp_path / "lists/a.csv", images=str(tmp_path / "photos"))
    assert bytes_of([found]) == [jpeg()] and out["error"] == "path leaves the folder"


@pytest.mark.parametrize("name", ["path", "file"])
def test_a_column_of_paths_that_are_no_pictures_is_no_address(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{name},link_of_it\nhome,http://h/1.jpg\n")
    (tmp_path / "a.jsonl").write_text(f'{{"{name}": "home", "link_of_it": "x"}}\n')
    for kind in ("csv", "jsonl"):
        with pytest.raises(SourceError, match="--column url=link_of_it, or, if it names files"):
            Source(path=str(tmp_path / f"a.{kind}")).check_columns()


def test_a_column_of_files_may_hold_addresses_and_names_that_no_file_has(tmp_path: Path) -> None:
    cells = ["https://h.test/1.jpg", "a\0b.jpg", "/9j/" + "A" * 9000, "x.jpg"]
    (tmp_path / "x.jpg").write_bytes(jpeg())
    pq.write_table(pa.table({"image": cells, "caption": list("abcd")}), tmp_path / "a.parquet")
    rows = read(tmp_path / "a.parquet")
    assert [row["url"] for row in rows] == [cells[0], None, None, None]
    out = "path leaves the folder"
    assert [row["error"] for row in rows] == [None, out, out, None]
    assert bytes_of(rows[3:]) == [jpeg()]


ARRAY = [{"url": f"http://h/{i}", "caption": f"caption {i}, [of] it"} for i in range(50)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_an_array_of_rows(name: str, indent: int | None, tmp_path: Path) -> None:
    (tmp_path / name).write_text("\n " + json.dumps(ARRAY, indent=indent) + "\n")
    rows = read(tmp_path / name)
    assert [row["caption"] for row in rows] == [row["caption"] for row in ARRAY]
    source = Source(path=str(tmp_path / name))
    source.check_columns()
    assert 40 <= (source.estimate_rows() or 0) <= 70


def test_what_is_no_row_of_an_array_has_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"url": "http://h/1"}, 7, {"url": 1, "url": 2}, [], 3.5]')
    assert [row["error"] for row in read(tmp_path / "a.json")] == [
        None, "broken json line", "two keys of one name", "broken json line", "broken json line",
    ]  # fmt: skip
    (tmp_path / "b.json").write_text("[]")
    assert read_rows(tmp_path / "b.json") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"url": "http://h/1"}, {"url": "http', "cut off"),
        ('[{"url": "http://h/1"}', "cut off"),
        ('[{"url": "http://h/1"} {"url" 1}]', "cannot be read from"),
        ('[{"url": "http://h/1"},\n{"url": "http://h/2"}]\n{"url": "http://h/3"}', "goes on after"),
    ],
)
def test_an_array_that_is_damaged_says_where(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(SourceError, match=said):
        read_rows(tmp_path / "a.json")


def test_lines_that_are_arrays_are_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('[1]\n{"url": "http://h/1"}\n')
    assert [row["error"] for row in read(tmp_path / "a.jsonl")] == ["broken json line", None]


CHAT = {
    "conversations": [
        {"from": "human", "value": "<image>\nWhat colour?"}, {"from": "gpt", "value": "red"},
    ],
    "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What colour?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
    ],
    "texts": [{"user": "What colour?", "assistant": "red"}],
}  # fmt: skip


@pytest.mark.parametrize("name", CHAT)
def test_a_conversation_is_kept_and_its_first_answer_is_the_caption(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg())
    row = {"id": "1", "image": "x.jpg", name: CHAT[name]}
    (tmp_path / "a.json").write_text(json.dumps([row, {**row, "caption": "said"}]))
    first, told = read(tmp_path / "a.json")
    assert (first["caption"], told["caption"]) == ("red", "said")
    assert json.loads(first["meta"])[name] == CHAT[name] and bytes_of([first]) == [jpeg()]
    pq.write_table(
        pa.Table.from_pylist([{**row, name: json.dumps(CHAT[name])}]), tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet")[0]["caption"] == "red"


def test_so_it_is_where_the_picture_lies_in_the_source(tmp_path: Path) -> None:
    chat = {name: CHAT[name] for name in ("conversations",)}
    pq.write_table(
        pa.Table.from_pylist([{"image": {"bytes": jpeg()}, **chat}]), tmp_path / "a.parquet"
    )
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/x.jpg").write_bytes(jpeg())
    (tmp_path / "photos/x.json").write_text(json.dumps(chat))
    write_tar(tmp_path / "a.tar", [("x.jpg", jpeg()), ("x.json", json.dumps(chat).encode())])
    for path in ("a.parquet", "photos", "a.tar"):
        (row,) = read(tmp_path / path)
        assert row["caption"] == "red" and json.loads(row["meta"])["conversations"]


def test_a_table_in_each_folder_of_a_set(tmp_path: Path) -> None:
    for split in ("test", "train"):
        (tmp_path / split).mkdir()
        for name in ("1.jpg", "unnamed.jpg"):
            (tmp_path / split / name).write_bytes(jpeg())
        line = json.dumps({"file_name": "1.jpg", "text": split})
        (tmp_path / split / "metadata.jsonl").write_text(line)
    assert [row["caption"] for row in read(tmp_path)] == ["test", "train"]
    (note,) = Source(path=str(tmp_path)).notes()
    assert "only pictures that" in note and note.count("metadata.jsonl") == 2
    # One without a table: none is lost.
    (tmp_path / "train/metadata.jsonl").unlink()
    assert len(read(tmp_path)) == 4


# Of files that `datasets` leaves open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# What `datasets` leaves open is none of ours, and is to be told here, not in another test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_of_pictures_with_hugging_face_s_table(kind: str, tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.jpg", "text": f"picture {i}"} for i in range(3)]
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
    data = datasets.Dataset.from_list(rows)
    getattr(data, {"jsonl": "to_json", "csv": "to_csv", "parquet": "to_parquet"}[kind])(
        str(tmp_path / f"metadata.{kind}")
    )
    found = read(tmp_path)
    assert [row["caption"] for row in found] == [row["text"] for row in rows]
    assert bytes_of(found) == [jpeg(i) for i in range(3)]
    theirs = datasets.load_dataset("imagefolder", data_dir=str(tmp_path), split="train")
    assert [row["text"] for row in theirs] == [row["caption"] for row in found]
    gc.collect()


@pytest.mark.parametrize(
    "url", ["example.com/a.jpg", "//h/a.jpg", "ftp://h/a.jpg", "some words.jpg"]
)
def test_what_may_be_a_url_is_left_to_the_download(url: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(url)
    assert [(row["url"], row["error"]) for row in read(tmp_path / "a.txt")] == [(url, None)]


def test_packed_lines_are_read(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"url": f"http://h/{i}"}) + "\n" for i in range(5)).encode()
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(lines))
    (tmp_path / "a.jsonl.xz").write_bytes(lzma.compress(lines))
    with pa.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as file:
        file.write(lines)
    for ending in ("bz2", "xz", "zst"):
        assert len(read(tmp_path / f"a.jsonl.{ending}")) == 5
