"""Documents and pairs: every form is read in order, bad ones are named, pictures come and go."""

from __future__ import annotations

import base64
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from aiohttp import web
from loopback import Loopback, serving
from memory_workspace import MemoryWorkspace, run_global

from gristmill.errors import SourceError
from gristmill.pipelines.documents.assemble_documents import AssembleDocuments
from gristmill.pipelines.documents.document_facts import DocumentFacts
from gristmill.pipelines.documents.document_images import DocumentImages
from gristmill.pipelines.documents.repeated_images import RepeatedImages
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.edit_facts import EditFacts
from gristmill.pipelines.schema import ROW
from gristmill.pipelines.sources.document_formats import (
    DocumentImage,
    ParsedDocument,
    from_dict,
    parse_document,
    parse_html,
)
from gristmill.pipelines.sources.documents import DocumentSource

PAGE = b"""<!doctype html><html><head><title>How bread is made</title></head><body>
<nav><a href="/">Home</a> <a href="/shop">Shop</a><img src="/logo.png"></nav><article>
<h1>How bread is made</h1>
<p>Flour is ground from grain between two stones, and the <b>miller</b> takes care that they
never touch one another while they turn.</p>
<figure><img src="mill.jpg" alt="an old mill"></figure>
<p>Then water and salt are added and the dough rests for a night, so that it may rise.</p>
<img src="https://cdn.test/dough.jpg?w=1" alt="dough">
<p>In the morning it is baked in a hot oven, and people come and buy it while it is warm.</p>
</article><footer>Copyright 2024. <img src="/pixel.gif"></footer></body></html>"""


def picture(seed: int, side: int = 64) -> Any:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (6, 6, 3), np.uint8)
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def jpeg(image: Any) -> bytes:
    return bytes(cv2.imencode(".jpg", image[:, :, ::-1])[1].tobytes())


def read(source: DocumentSource) -> pa.Table:
    return pa.concat_tables(t for chunk in source.chunks() for t in source.read(chunk))


# -- forms --------------------------------------------------------------------------------------


def test_mmc4_and_obelics_are_read_in_order() -> None:
    mmc4 = parse_document(
        {
            "url": "http://a.test/",
            "text_list": ["one", "two", "three"],
            "image_info": [
                {"raw_url": "http://i.test/b.jpg", "matched_text_index": 2},
                {"raw_url": "http://i.test/a.jpg", "matched_text_index": 0},
            ],
        }
    )
    assert mmc4.texts == ["one", "two", "three"]
    assert [(i.url, i.place) for i in mmc4.images] == [
        ("http://i.test/a.jpg", 0), ("http://i.test/b.jpg", 2),
    ]  # fmt: skip
    obelics = parse_document(
        {
            "images": [None, "http://i.test/a.jpg", None, "http://i.test/b.jpg"],
            "texts": ["one", None, "two", None],
            "metadata": json.dumps([None, {"alt_text": "a dog"}, None, None]),
            "general_metadata": json.dumps({"url": "http://b.test/"}),
        }
    )
    assert obelics.url == "http://b.test/" and obelics.texts == ["one", "two"]
    assert [(i.place, i.alt) for i in obelics.images] == [(1, "a dog"), (2, "")]
    assert from_dict(json.loads(json.dumps(obelics.as_dict()))) == obelics


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"title": "x"}, "not a document"),
        ({"texts": ["a"], "images": []}, "differ in number"),
        ({"text_list": ["a", {"en": "b"}]}, "broken document"),
        ({"text_list": ["a", b"caf\xe9"]}, "not UTF-8"),
        ({"texts": "ab", "images": [None, "u"]}, "broken document"),
        ({"texts": ["a"], "images": [None], "metadata": "{broken"}, "broken document"),
        ({"text_list": None, "image_info": []}, "broken document"),
    ],
)  # fmt: skip
def test_what_is_no_document_says_so(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_document(values)


def test_html_gives_main_texts_and_pictures_in_order() -> None:
    document = parse_html(PAGE, "http://a.test/b/c.html")
    assert document.title == "How bread is made"
    assert [i.url for i in document.images] == [
        "http://a.test/b/mill.jpg", "https://cdn.test/dough.jpg?w=1",
    ]  # fmt: skip
    said = " ".join(document.texts)
    assert "the miller takes care" in said and "Shop" not in said and "Copyright" not in said
    first, second = (image.place for image in document.images)
    assert document.texts[first - 1].startswith("Flour") and "dough rests" in document.texts[first]
    assert second == first + 1 and document.images[0].alt == "an old mill"
    with pytest.raises(ValueError, match="no main text"):
        parse_html(b"<html><body></body></html>", None)


def test_a_bad_picture_does_not_drop_its_document() -> None:
    infos = [
        {"matched_text_index": 0}, {"raw_url": "u", "matched_text_index": 5}, None,
        {"raw_url": b"\xff"}, {"raw_url": "http://a.test/1.jpg", "matched_text_index": 0},
    ]  # fmt: skip
    document = parse_document({"text_list": ["a"], "image_info": infos})
    assert [image.error for image in document.images] == [
        "no url", "picture outside the text", "broken entry", "text is not UTF-8", "",
    ]  # fmt: skip
    obelics = parse_document({"texts": ["a", None, None], "images": [None, {"src": "u"}, "v"]})
    assert [image.error for image in obelics.images] == ["url is not text", ""]
    assert from_dict(json.loads(json.dumps(document.as_dict()))) == document
    page = PAGE.replace(b"mill.jpg", b"http://[mill.jpg")
    assert [i.url for i in parse_html(page, "http://a.test/").images] == [
        "http://[mill.jpg", "https://cdn.test/dough.jpg?w=1",
    ]  # fmt: skip


# -- sources ------------------------------------------------------------------------------------


def test_json_lines_and_parquet_give_the_same_rows(tmp_path: Path) -> None:
    rows = [
        {"texts": ["one", None], "images": [None, f"http://i.test/{i}.jpg"]} for i in range(3)
    ]  # fmt: skip
    lines = [*(json.dumps(row) for row in rows), "{broken", json.dumps({"title": "nothing"})]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    table = read(DocumentSource(path=str(tmp_path / "d.jsonl")))
    assert table.schema == ROW and len(set(table["uid"].to_pylist())) == 5
    assert table["error"].to_pylist() == [None] * 3 + ["broken json line", "not a document"]
    assert (
        read(DocumentSource(path=str(tmp_path / "d.parquet")))["uid"].to_pylist()
        == (table["uid"].to_pylist()[:3])
    )


def test_a_folder_of_pages_is_parsed_where_it_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(PAGE)
    (tmp_path / "b.htm").write_bytes(b"<html><body></body></html>")
    (tmp_path / "notes.txt").write_text("no page")
    (tmp_path / "c.html").symlink_to("/etc/hostname")
    table = read(DocumentSource(path=f"folder:{tmp_path}"))
    images = DocumentImages()(table)
    outside = "path leaves the folder"
    assert images["error"].to_pylist() == [None, None, "no main text", outside]
    assert images["image_number"].to_pylist() == [0, 1, None, None]


def test_pictures_beside_a_table_are_found_and_none_elsewhere(tmp_path: Path) -> None:
    rows = [
        {"texts": ["one", None], "images": [None, "pictures/a.jpg"]},
        {"texts": ["one", None], "images": [None, "../../etc/passwd"]},
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    table = read(DocumentSource(path=str(tmp_path / "d.jsonl")))
    assert table["error"].to_pylist() == [None, None]
    image, outside = DocumentImages()(table).to_pylist()
    assert image["pointer"].endswith("/pictures/a.jpg") and image["url"] is None
    assert outside["error"] == "path leaves the folder" and outside["pointer"] is None
    assert outside["status"] == "failed_to_download"


@pytest.mark.parametrize("form", ["instructpix2pix", "magicbrush", "files"])
def test_pairs_are_read_under_the_names_people_use(tmp_path: Path, form: str) -> None:
    before, after = jpeg(picture(0)), jpeg(picture(1))
    names = {
        "instructpix2pix": ("original_image", "edit_prompt", "edited_image"),
        "magicbrush": ("source_img", "instruction", "target_img"),
        "files": ("source", "instruction", "target"),
    }[form]
    if form == "files":
        (tmp_path / "a.jpg").write_bytes(before)
        (tmp_path / "b.jpg").write_bytes(after)
        row = dict(zip(names, ("a.jpg", "make it blue", "b.jpg"), strict=True))
        (tmp_path / "p.jsonl").write_text(
            json.dumps(row) + "\n" + json.dumps({**row, "target": ""})
        )
        path = tmp_path / "p.jsonl"
    else:
        cells = ({"bytes": before, "path": None}, "make it blue", {"bytes": after, "path": None})
        row = dict(zip(names, cells, strict=True))
        lost = {**row, names[2]: {"bytes": None, "path": None}}
        pq.write_table(pa.Table.from_pylist([row, lost]), tmp_path / "p.parquet")
        path = tmp_path / "p.parquet"
    table = read(DocumentSource(path=str(path), kind="pair"))
    assert table["error"].to_pylist() == [None, "no target image"]
    assert table["caption"][0].as_py() == "make it blue"
    images = DocumentImages(min_images=2)(table.slice(0, 1)).to_pylist()
    assert [image["image_name"] for image in images] == ["source", "target"]
    assert images[0]["uid"] != images[1]["uid"] and images[0]["image_place"] == 0


def test_a_pair_that_lacks_a_column_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(picture(0)))
    whole = {"source": "a.jpg", "instruction": ["make it blue", "and round"], "target": "a.jpg"}
    lines = [whole, {"source": "a.jpg", "instruction": "x"}, {**whole, "instruction": {"en": "x"}}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    table = read(DocumentSource(path=str(tmp_path / "p.jsonl"), kind="pair"))
    assert table["error"].to_pylist() == [None, "no target image", None]
    assert table["caption"].to_pylist() == ["make it blue; and round", None, ""]


def test_a_table_without_pairs_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"left": "a.jpg", "say": "x"}))
    with pytest.raises(SourceError, match="--column source=NAME"):
        DocumentSource(path=str(tmp_path / "p.jsonl"), kind="pair").check_columns()
    with pytest.raises(SourceError, match=r"come as \.jsonl"):
        (tmp_path / "p.csv").write_text("a,b\n1,2\n")
        read(DocumentSource(path=str(tmp_path / "p.csv"), kind="pair"))


class _Deadly:
    """A decoder that a picture of one byte kills."""

    def __init__(self, make_sound: Callable[[], Any]) -> None:
        self.sound = make_sound()

    def process(self, data: bytes, extra: Any) -> Any:
        if data == b"!":
            os._exit(3)
        return self.sound.process(data, extra)


class DeadlyDownload(Download):
    def make_worker(self) -> Any:
        return functools.partial(_Deadly, super().make_worker())


def inline(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


# A picture of a document, and why it goes.
BAD_PICTURES: dict[str, tuple[object, str]] = {
    "undownloadable": ("WEB/none.jpg", "http 404"),
    "a page": ("WEB/page.jpg", "html instead of image"),
    "opted out": ("WEB/noai.jpg", "disallowed by robots header"),
    "endless": ("WEB/endless.jpg", "too many redirects"),
    "undecodable": ("WEB/cut.jpg", "not decodable"),
    "too small": ("WEB/small.jpg", "image too small"),
    "poisoned": ("WEB/poison.jpg", "decoder crashed"),
    "no address": ("http://[x", "invalid url"),
    "no host": ("https:///x", "invalid url"),
    "rubbish of base64": ("data:image/png;base64,%%%", "broken data url"),
    "base64 of rubbish": (inline(b"rubbish" * 2_000), "not decodable"),
    "base64 without a scheme": ("A" * 5_000, "file not found"),
    "no such file": ("none.jpg", "file not found"),
    "a file for a folder": ("whole.jpg/b.jpg", "file not found"),
    "a folder": ("below", "not a file"),
    "an empty file": ("empty.jpg", "empty body"),
    "a link to itself": ("itself.jpg", "file not found"),
    "a link out": ("out.jpg", "path leaves the folder"),
    "above": ("../whole.jpg", "path leaves the folder"),
    "elsewhere": ("/etc/passwd", "path leaves the folder"),
    "another scheme": ("ftp://a.test/b.jpg", "path leaves the folder"),
    "a name with a null": ("a\0b.jpg", "path leaves the folder"),
    "an object": ({"src": "whole.jpg"}, "url is not text"),
    "a list": ([], "url is not text"),
    "a truth": (True, "url is not text"),
}


@pytest.fixture(scope="module")
def web_and_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loopback, Path]]:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "whole.jpg").write_bytes(jpeg(picture(1)))
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "below").mkdir()
    (folder / "itself.jpg").symlink_to("itself.jpg")
    (folder / "out.jpg").symlink_to("/etc/hostname")

    async def opted_out(request: web.Request) -> web.StreamResponse:
        return web.Response(body=jpeg(picture(2)), headers={"X-Robots-Tag": "noai"})

    async def endless(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(request.path)

    with serving() as server:
        server.pages |= {
            "/whole.jpg": jpeg(picture(0)), "/page.jpg": b"<!doctype html><html>log in</html>",
            "/cut.jpg": jpeg(picture(0))[:200], "/small.jpg": jpeg(picture(0, 8)),
            "/noai.jpg": opted_out, "/endless.jpg": endless, "/poison.jpg": b"!",
        }  # fmt: skip
        yield server, folder


@pytest.mark.parametrize("form", ["mmc4", "obelics"])
@pytest.mark.parametrize("bad", BAD_PICTURES)
def test_a_bad_picture_goes_and_its_document_stays(
    bad: str, form: str, web_and_folder: tuple[Loopback, Path]
) -> None:
    server, folder = web_and_folder
    value, reason = BAD_PICTURES[bad]
    if isinstance(value, str):
        value = value.replace("WEB", server.url(""))
    images = [inline(jpeg(picture(3))), value, server.url("/whole.jpg")]
    if form == "obelics":
        row = {
            "texts": ["a", None, None, "b", None],
            "images": [None, *images[:2], None, images[2]],
        }
    else:
        if value in ([], True) or isinstance(value, dict):
            reason = "no url"
        places = [{"raw_url": url, "matched_text_index": i // 2} for i, url in enumerate(images)]
        row = {"text_list": ["a", "b"], "image_info": places}
    (folder / "d.jsonl").write_text(json.dumps(row))
    table = DocumentImages()(read(DocumentSource(path=str(folder / "d.jsonl"))))
    done = DeadlyDownload(allow_hosts=(server.host,), retries=0, min_image_size=16)(table)
    rows = sorted(done.to_pylist(), key=lambda row: row["image_number"])
    assert [row["error"] for row in rows] == [None, reason, None]
    left = done.filter(pc.equal(done["status"], "success")).drop_columns(["format"])
    (document,) = (
        row for row in AssembleDocuments()(fetched(left)).to_pylist() if row["status"] == "success"
    )
    assert document["texts"] == ["a", "b"] and document["image_urls"][1] == images[2]
    assert document["image_places"] == ([1, 2] if form == "obelics" else [0, 1])
    assert (document["image_count"], document["images_lost"]) == (2, 1)
    assert document["document_images"] == 3 and document["image_names"] == ["0", "1"]


def test_pictures_that_are_broken_already_do_not_make_a_document_too_large() -> None:
    infos: list[Any] = [7, 8, {"raw_url": "http://i.test/0.jpg", "matched_text_index": 0}]
    document = parse_document({"text_list": ["a"], "image_info": infos})
    assert DocumentImages(max_images=1)(rows_of([document]))["error"].to_pylist() == [
        "broken entry", "broken entry", None,
    ]  # fmt: skip


def test_a_picture_beside_a_text_is_not_lost() -> None:
    document = parse_document({"texts": ["a", "b"], "images": ["http://i.test/0.jpg", None]})
    assert document.texts == ["a", "b"] and [i.place for i in document.images] == [1]


# -- to pictures and back -----------------------------------------------------------------------


def rows_of(documents: list[ParsedDocument]) -> pa.Table:
    rows = [
        {"uid": f"{i:032x}", "image_id": f"{i:032x}", "row": i, "source": "test",
         "status": "pending", "url": document.url,
         "meta": json.dumps({"document": document.as_dict()})}
        for i, document in enumerate(documents)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, ROW)


def fetched(table: pa.Table) -> pa.Table:
    """As a download would leave them."""
    count = len(table)
    table = table.set_column(
        table.schema.get_field_index("status"), "status", pa.array(["success"] * count)
    )
    for name, values, kind in (
        ("format", ["jpg"] * count, pa.string()), ("blob_offset", list(range(count)), pa.int64()),
        ("blob_size", [10] * count, pa.int64()),
    ):  # fmt: skip
        table = table.append_column(name, pa.array(values, kind))
    return table


def story(images: int = 3) -> ParsedDocument:
    return ParsedDocument(
        [f"text {i}" for i in range(3)],
        [DocumentImage(place=i + 1, url=f"http://i.test/{i}.jpg") for i in range(images)],
        url="http://a.test/",
    )


def test_what_is_left_of_a_document_keeps_its_order() -> None:
    images = fetched(DocumentImages()(rows_of([story(), story(1)])))
    left = images.filter(pa.array([True, False, True, True]))
    done = AssembleDocuments()(left)
    documents = [row for row in done.to_pylist() if row["status"] == "success"]
    assert [row["uid"] for row in documents] == [f"{0:032x}", f"{1:032x}"]
    first = documents[0]
    assert first["texts"] == ["text 0", "text 1", "text 2"] and first["image_places"] == [1, 3]
    assert first["image_names"] == ["0", "1"] and first["image_offsets"] == [0, 2]
    assert first["caption"] == "text 0\ntext 1\ntext 2" and first["url"] == "http://a.test/"
    assert (first["image_count"], first["document_images"]) == (2, 3)
    assert first["width"] is None and first["original_height"] is None
    merged = [row for row in done.to_pylist() if row["status"] == "merged"]
    assert {row["uid"] for row in merged} == set(left["uid"].to_pylist())
    assert not {"image_number", "phash"} & set(done.column_names)


def test_documents_with_too_little_end_with_the_reason() -> None:
    images = DocumentImages(max_images=2, min_images=1)(rows_of([story(), story(0), story(2)]))
    assert images["error"].to_pylist() == ["too many images", "too few images", None, None]
    pair = fetched(DocumentImages()(rows_of([story(2)])))
    whole = AssembleDocuments(complete=True)(pair).to_pylist()
    lost = AssembleDocuments(complete=True)(pair.slice(1)).to_pylist()
    few = AssembleDocuments(min_images=2)(pair.slice(1)).to_pylist()
    reasons = [[row["error"] for row in rows if row["status"] != "merged"]
               for rows in (whole, lost, few)]  # fmt: skip
    assert reasons == [[None], ["image missing"], ["too few images left"]]


def test_pictures_can_be_put_where_they_fit() -> None:
    images = fetched(DocumentImages()(rows_of([story(2)])))
    scores = [[0.1, 0.9, 0.2], [0.1, 0.95, 0.8]]
    images = images.append_column("text_scores", pa.array(scores, pa.list_(pa.float32())))
    row = AssembleDocuments(placement="match")(images).to_pylist()[0]
    assert row["image_places"] == [1, 2], "each text is taken once: .9 + .8 beats .95 + .1"
    assert row["image_urls"] == ["http://i.test/0.jpg", "http://i.test/1.jpg"]


def test_a_picture_counts_once_a_document(tmp_path: Path) -> None:
    groups = ["a", "a", "a", "b", "a", "c"]
    documents = ["1", "1", "2", "2", "3", "3"]
    table = pa.table({"duplicate_group": groups, "document_uid": documents})
    parts = [table.slice(0, 4), table.slice(4)]
    found = run_global(RepeatedImages(), MemoryWorkspace(parts, tmp_path))
    assert found["image_documents"].to_pylist() == [3, 3, 3, 1, 3, 1]


def test_document_facts_are_what_they_say() -> None:
    table = pa.table(
        {
            "texts": [["a b c", "d", "A  b c"], []],
            "image_places": [[1, 1, 3], []],
            "image_scores": pa.array([[0.5, None, 0.25], []], pa.list_(pa.float32())),
        }
    )
    scores = DocumentFacts()(table).to_pylist()
    assert scores[0]["text_count"] == 3 and scores[0]["words_per_image"] == pytest.approx(
        7 / 3, abs=1e-4
    )
    assert scores[0]["repeated_text_share"] == pytest.approx(1 / 3, abs=1e-4)
    assert scores[0]["images_in_a_row"] == 2 and scores[0]["mean_image_score"] == 0.375
    assert scores[1]["mean_image_score"] is None and scores[1]["images_in_a_row"] == 0


# -- edits --------------------------------------------------------------------------------------


def test_the_size_of_an_edit_is_measured() -> None:
    before = picture(3, 128)
    patch = before.copy()
    patch[32:64, 32:64] = 255 - patch[32:64, 32:64] // 2
    noisy = cv2.imdecode(np.frombuffer(jpeg(before), np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    pairs = [[before, noisy], [before, patch], [before, 255 - before], [before, before[:, :96]]]
    table = pa.table({"caption": ["do nothing", "change a patch", "", None]})
    rows = EditFacts().score(table, pairs).to_pylist()
    assert rows[0]["change_share"] < 0.001
    assert rows[1]["change_share"] == pytest.approx(1 / 16, abs=0.03)
    assert rows[1]["change_box"] == pytest.approx(1 / 16, abs=0.03)
    assert rows[2]["change_share"] > 0.6 and [row["same_shape"] for row in rows][3] is False
    assert [row["instruction_words"] for row in rows] == [2, 3, 0, 0]
    with pytest.raises(ValueError, match="two pictures"):
        EditFacts().score(table.slice(0, 1), [[before]])
