"""Download: pixels equal img2dataset's, poison set aside, no metadata stored, fetched once."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from colour_profiles import swapped_profile
from loopback import Loopback
from name_server import SILENT, answering_names

from gristmill.dags.demos.web_pages import huge_png
from gristmill.errors import ConfigurationError, WorkerError
from gristmill.pipelines.decode import decode_rgb
from gristmill.pipelines.download import names, transfer
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.download.resize import (
    Boxes,
    PictureWorker,
    ResizedImage,
    ResizeSettings,
    load_module,
)
from gristmill.pipelines.download.transfer import cores
from gristmill.pipelines.sources.pointer import file_pointer
from gristmill.pipelines.sources.row_builder import RowBuilder, SourceRow, url_row


class Here:
    """A decoding child without the process: most tests are not about supervision."""

    def __init__(self, factory: functools.partial[Any], memory_gb: float) -> None:
        # Not by the factory, which would silence the terminal.
        self.worker = PictureWorker(*factory.args)

    def start(self) -> None:
        """There is nothing to start."""

    def call(self, method: str, *args: object, deadline_s: float) -> Any:
        return getattr(self.worker, method)(*args)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are decoded in this process, one at a time: the Resizer redirects its output."""
    monkeypatch.setattr(transfer, "Child", Here)
    monkeypatch.setattr(transfer, "_IDLE", {})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def photo(side: int = 96, seed: int = 0, height: int | None = None) -> Any:
    """Something with detail, uint8 RGB."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (8, 8, 3), np.uint8)
    smooth: Any = cv2.resize(small, (side, height or side), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth.astype(int) + rng.integers(-20, 20, smooth.shape), 0, 255).astype(
        np.uint8
    )


def encoded(pixels: Any, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def url_rows(*urls: str, captions: int = 1) -> pa.Table:
    rows = RowBuilder("test")
    for url in urls:
        for i in range(captions):
            rows.add(replace(url_row(url), caption=f"caption {i}"))
    return next(rows.take(all_rows=True))


def file_rows(folder: Path, files: dict[str, bytes]) -> pa.Table:
    rows = RowBuilder("test")
    for name, data in files.items():
        (folder / name).write_bytes(data)
        rows.add(SourceRow(kind="path", locator=name, pointer=file_pointer(str(folder / name))))
    return next(rows.take(all_rows=True))


def outcome(stage: Download, table: pa.Table) -> list[dict[str, Any]]:
    """What became of each row, in the order of the rows."""
    stage.check()
    found = {row["uid"]: row for row in stage(table).to_pylist()}
    return [found[uid] for uid in table["uid"].to_pylist()]


# In one process: theirs would start two for each mode, and each imports all that they have.
IMG2DATASET = """
import importlib, json, sys, types
main = importlib.import_module("img2dataset.main")
main.LoggerProcess = lambda *_: types.SimpleNamespace(start=lambda: None, join=lambda: None)
main.multiprocessing_distributor = lambda _, downloader, reader, *__: list(map(downloader, reader))
urls, out, modes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
for name, mode in modes.items():
    main.download(url_list=urls, input_format="parquet", url_col="url",
                  output_folder=f"{out}/{name}", output_format="parquet", processes_count=1,
                  thread_count=8, image_size=48, enable_wandb=False, **mode)
"""
MODES: dict[str, dict[str, Any]] = {
    "keep_ratio": {"resize_mode": "keep_ratio"},
    "center_crop": {"resize_mode": "center_crop", "resize_only_if_bigger": True},
    "border": {"resize_mode": "border", "encode_format": "png", "encode_quality": 6},
    "keep_ratio_largest": {"resize_mode": "keep_ratio_largest", "encode_format": "webp"},
    "no": {"resize_mode": "no", "skip_reencode": True},
}


# What img2dataset stores otherwise than it looks, and why: 16 bits are clipped to white, numbers
# of 0..1 end as black, a colour profile is dropped without being applied. Ours is the picture.
GREY, COLOURS = photo(64, 9)[..., 0], photo(64, 10)
MISREAD = {
    "/deep.png": (
        cv2.imencode(".png", photo(64, 7)[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
        photo(64, 7),
    ),
    "/float.tif": (encoded(GREY.astype(np.float32) / 255, "TIFF"), np.dstack([GREY] * 3)),
    "/profile.png": (
        encoded(COLOURS[..., [1, 0, 2]].copy(), "PNG", icc_profile=swapped_profile()),
        COLOURS,
    ),
}


def far_from(shown: Any, stored: bytes) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(decode_rgb(stored).astype(int) - shown).mean())


@pytest.mark.usefixtures("in_this_process")
def test_pixels_are_img2dataset_s_in_every_mode(server: Loopback, tmp_path: Path) -> None:
    grey = photo(70, 5)[:, :, 0]
    alpha = np.dstack([photo(60, 6), np.linspace(0, 255, 3600, dtype=np.uint8).reshape(60, 60)])
    server.pages = {
        "/large.jpg": encoded(photo(200, 1)),
        "/wide.jpg": encoded(photo(180, 2, height=50)),
        "/small.png": encoded(photo(30, 3), "PNG"),
        "/x.webp": encoded(photo(90, 4), "WEBP"),
        "/grey.jpg": encoded(grey),
        "/alpha.png": encoded(alpha, "PNG"),
        **{path: data for path, (data, _) in MISREAD.items()},
        "/palette.gif": encoded(photo(64, 8), "GIF"),
        "/broken.jpg": b"no picture",
    }
    urls = [server.url(path) for path in server.pages]
    pq.write_table(pa.table({"url": urls}), tmp_path / "urls.parquet")
    environment = os.environ | {"WANDB_MODE": "disabled", "NO_PROXY": "127.0.0.1"}
    program = [sys.executable, "-W", "ignore", "-c", IMG2DATASET]
    arguments = [str(tmp_path / "urls.parquet"), str(tmp_path), json.dumps(MODES)]
    done = subprocess.run(program + arguments, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    for name, mode in MODES.items():
        theirs = pq.read_table(tmp_path / name / "00000.parquet").to_pylist()
        kind = mode.get("encode_format", "jpg")
        expected = {row["url"]: row[kind] for row in theirs if row["status"] == "success"}
        stage = Download(image_size=48, allow_hosts=(server.host,), decoders=1, **{
            "resize_only_if_bigger": False, **mode
        })  # fmt: skip
        rows = outcome(stage, url_rows(*urls))
        ours = {row["url"]: row["image"] for row in rows if row["status"] == "success"}
        assert len(expected) >= 10 and ours.keys() == expected.keys(), name
        for url, data in expected.items():
            path = url.removeprefix(server.url(""))
            if path in MISREAD and name == "no":
                away = [far_from(MISREAD[path][1], stored) for stored in (ours[url], data)]
                # Noise in a JPEG: its colours are kept at half the size.
                assert away[0] < 10 and away[1] > 20, (path, away)
            elif path not in MISREAD:
                flags = cv2.IMREAD_UNCHANGED
                mine, other = (
                    cv2.imdecode(np.frombuffer(d, np.uint8), flags) for d in (ours[url], data)
                )
                assert np.array_equal(mine, other), (name, url)  # type: ignore[arg-type]


@pytest.mark.usefixtures("in_this_process")
def test_each_kind_of_wrong_bytes_has_its_reason(server: Loopback, tmp_path: Path) -> None:
    good = encoded(photo(120), quality=95)
    files = {
        "good.jpg": (good, None),
        "trailing.jpg": (good + b"garbage after the end", None),
        "cut.jpg": (good[: len(good) // 2], "truncated image"),
        "cut.png": (encoded(photo(90), "PNG")[:3000], "truncated image"),
        "cut.webp": (encoded(photo(90), "WEBP")[:500], "truncated image"),
        "huge.png": (huge_png(12_000, 12_000), "decompression bomb"),
        "page.jpg": (b"  <!DOCTYPE html><html></html>", "html instead of image"),
        "vector.jpg": (b"<?xml version='1.0'?><svg xmlns='x'></svg>", "svg is not a raster image"),
        "json.jpg": (b'{"error": 1}', "text instead of image"),
        "empty.jpg": (b"", "empty body"),
        "noise.jpg": (b"\x00\x01\x02\x03" * 100, "not decodable"),
        "long.jpg": (encoded(photo(400, height=40)), "aspect ratio too large"),
        "tiny.png": (encoded(photo(8), "PNG"), "image too small"),
    }
    table = file_rows(tmp_path, {name: data for name, (data, _) in files.items()})
    stage = Download(decoders=1, min_image_size=16, max_aspect_ratio=5, max_pixels=50_000_000)
    found = [row["error"] for row in outcome(stage, table)]
    assert found == [error for _, error in files.values()]


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("decode", ["exact", "fast"])
@pytest.mark.parametrize("resize_mode", ["keep_ratio", "border"])
def test_pictures_come_out_upright(decode: str, resize_mode: str, tmp_path: Path) -> None:
    upright = photo(160, 3, height=100)
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    files = {}
    for tag, turn in undo.items():
        exif = PIL.Image.Exif()
        exif[0x0112] = tag
        files[f"{tag}.jpg"] = encoded(np.ascontiguousarray(turn(upright)), quality=95, exif=exif)
    stage = Download(image_size=40, decode=decode, resize_mode=resize_mode, decoders=1)
    rows = outcome(stage, file_rows(tmp_path, files))
    assert [row["orientation"] for row in rows] == list(range(1, 9))
    assert {(row["original_width"], row["original_height"]) for row in rows} == {(160, 100)}
    first = decode_rgb(rows[0]["image"]).astype(int)
    for row in rows[1:]:
        assert np.abs(decode_rgb(row["image"]).astype(int) - first).mean() < 4


def test_a_bomb_costs_no_memory_and_an_upright_png_no_second_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = PictureWorker(ResizeSettings(image_size=40, max_pixels=10**6))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = encoded(np.rot90(photo(80, 2, height=50), 1).copy(), "PNG", exif=exif)

    def load(self: Any) -> None:
        raise AssertionError("decoded by looking at its header")

    monkeypatch.setattr(PIL.Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert worker.process(huge_png(12_000, 12_000)).error == "decompression bomb"
    picture = worker.process(turned)
    assert (picture.orientation, picture.original_width, picture.original_height) == (6, 80, 50)


@pytest.mark.usefixtures("in_this_process")
def test_fast_decoding_is_near_the_exact_one(tmp_path: Path) -> None:
    table = file_rows(tmp_path, {"x.jpg": encoded(photo(640, 1), quality=95)})
    exact, fast = (
        decode_rgb(outcome(Download(image_size=64, decode=decode, decoders=1), table)[0]["image"])
        for decode in ("exact", "fast")
    )
    assert exact.shape == fast.shape == (64, 64, 3)
    assert 0 < np.abs(exact.astype(int) - fast.astype(int)).mean() < 3


@pytest.mark.usefixtures("in_this_process")
def test_metadata_never_reaches_what_is_stored(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x010E] = "SECRET description"
    exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
    profile = b"SECRET profile" + bytes(128)
    extra = {"exif": exif, "icc_profile": profile}
    pixels = photo(64, 9)
    files = {
        "a.jpg": encoded(pixels, "JPEG", comment=b"SECRET comment", **extra),
        "b.png": encoded(pixels, "PNG", **extra),
        "c.webp": encoded(pixels, "WEBP", lossless=True, **extra),
    }
    assert all(b"SECRET" in data for data in files.values())
    table = file_rows(tmp_path, files)
    for fields in ({"reencode": "never", "mixed": True}, {}, {"skip_reencode": True}):
        for row, data in zip(
            outcome(Download(decoders=1, **fields), table), files.values(), strict=True
        ):
            assert row["status"] == "success"
            assert b"SECRET" not in row["image"] and b"Exif" not in row["image"]
            assert not PIL.Image.open(io.BytesIO(row["image"])).getexif()
            if "mixed" in fields:
                assert np.array_equal(decode_rgb(row["image"]), decode_rgb(data))


@pytest.mark.usefixtures("in_this_process")
def test_pass_through_keeps_one_format_unless_mixed(tmp_path: Path) -> None:
    table = file_rows(tmp_path, {"a.jpg": encoded(photo(50)), "b.png": encoded(photo(50), "PNG")})
    formats = [row["format"] for row in outcome(Download(reencode="never", decoders=1), table)]
    assert formats == ["jpg", "jpg"]
    mixed = outcome(Download(reencode="never", mixed=True, decoders=1), table)
    assert [row["format"] for row in mixed] == ["jpg", "png"]
    assert [(row["width"], row["height"]) for row in mixed] == [(50, 50), (50, 50)]


@pytest.mark.usefixtures("in_this_process")
def test_boxes_are_blurred_as_img2dataset_does_and_missing_ones_fail(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (120, 160, 3), np.uint8)
    box = [0.25, 0.25, 0.5, 0.75]
    rows = RowBuilder("faces")
    for name, meta in (
        ("a", {"faces": [box]}), ("b", {"faces": []}), ("c", {}), ("d", {"faces": [[2, 0, 3, 1]]}),
        ("e", {"faces": str([box])}),
    ):  # fmt: skip
        (tmp_path / f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        pointer = file_pointer(str(tmp_path / f"{name}.png"))
        rows.add(SourceRow(kind="path", locator=name, pointer=pointer, caption=name, meta=meta))
    stage = Download(blur_boxes="faces", encode_format="png", encode_quality=5)
    found = {row["caption"]: row for row in stage(next(rows.take(all_rows=True))).to_pylist()}
    assert [found[name]["error"] for name in "abcde"] == [None, None, *["no blur boxes"] * 2, None]
    plain, blurred = (decode_rgb(found[name]["image"]).astype(int) for name in "ba")
    assert (plain[..., ::-1] == pixels).all()
    assert (decode_rgb(found["e"]["image"]) == blurred).all()
    inside = (slice(40, 80), slice(50, 70))
    assert blurred[inside].std() < 0.5 * plain[inside].std()
    assert abs(blurred[:, 120:] - plain[:, 120:]).max() <= 1
    theirs = load_module("blurrer").BoundingBoxBlurrer()(pixels, [box])
    assert (theirs[..., ::-1] == blurred).all()
    with pytest.raises(ConfigurationError, match="blur_boxes"):
        Download(blur_boxes="faces", reencode="never").check()


@pytest.mark.usefixtures("in_this_process")
def test_captions_of_one_image_are_fetched_once(server: Loopback) -> None:
    server.pages["/x.jpg"] = encoded(photo())
    rows = outcome(
        Download(allow_hosts=(server.host,), decoders=1), url_rows(server.url("/x.jpg"), captions=5)
    )
    assert server.hits == ["/x.jpg"]
    assert len(rows) == 5 and len({row["image"] for row in rows}) == 1


@pytest.mark.usefixtures("in_this_process")
def test_rows_of_silent_names_wait_side_by_side(
    server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "_FIRST_TRY_S", 0.2)
    monkeypatch.setattr(names, "_TRIES", 2)
    server.pages["/x.jpg"] = encoded(photo())
    hosts = [f"{SILENT}{i}.test:{server.port}" for i in range(60)] + [f"a.test:{server.port}"]
    stage = Download(allow_hosts=tuple(hosts), decoders=1, connections=1)
    with answering_names() as servers:
        policy = replace(stage.policy(), name_servers=(servers.place,))
        monkeypatch.setattr(Download, "policy", lambda self: policy)
        rows = outcome(stage, url_rows(*[f"http://{host}/x.jpg" for host in hosts]))
    assert [row["error"] for row in rows] == [*["name not resolved"] * 60, None]
    asked = servers.asked
    first, last = f"{SILENT}0.test", f"{SILENT}59.test"
    assert asked.count(first) > 1
    assert asked.index(last) < len(asked) - 1 - asked[::-1].index(first), "one after the other"


@dataclass(frozen=True, kw_only=True)
class Poisoned(Download):
    """A download whose decoder misbehaves on some sizes of bytes."""

    def make_worker(self) -> Callable[[], Any]:
        return functools.partial(PoisonedWorker, self.resize_settings())


class PoisonedWorker(PictureWorker):
    """Crashes, hangs or eats memory when the bytes say so; what it would resize with is not
    loaded."""

    def __init__(self, settings: ResizeSettings) -> None:
        self.settings = settings

    def _process(self, data: bytes, boxes: Boxes | None) -> ResizedImage:
        if data == b"crash":
            os._exit(9)
        if data == b"hang":
            time.sleep(600)
        if data.startswith(b"raise"):
            raise AttributeError("'NoneType' object has no attribute 'thread_count'")
        if data == b"eat":
            return ResizedImage("success", image=bytes(bytearray(8 * 2**30)))
        return ResizedImage("success", image=data)


def test_a_picture_that_kills_its_decoder_is_set_aside(tmp_path: Path) -> None:
    files = {"1.jpg": b"crash", "2.jpg": b"hang", "3.jpg": b"eat", "4.jpg": encoded(photo())}
    stage = Poisoned(decode_deadline_s=1.0, decode_memory_gb=1.0, decoders=2)
    rows = outcome(stage, file_rows(tmp_path, files))
    assert [(row["status"], row["error"]) for row in rows] == [
        ("poisoned", "decoder crashed"),
        ("poisoned", "decoder hung"),
        ("poisoned", "out of memory"),
        ("success", None),
    ]


def test_what_a_decoder_raises_over_a_row_is_its_verdict(tmp_path: Path) -> None:
    files = {f"{i:02d}.jpg": b"raise %d" % i for i in range(20)} | {"00.jpg": encoded(photo())}
    rows = outcome(Poisoned(decoders=1), file_rows(tmp_path, files))
    assert [(row["status"], row["error"]) for row in rows] == [
        ("success", None),
        *[("poisoned", "decoder raised AttributeError")] * 19,
    ]
    # One that never does anything else is broken, whatever the rows.
    (tmp_path / "raising").mkdir()
    del files["00.jpg"]
    with pytest.raises(WorkerError, match="thread_count"):
        outcome(Poisoned(decoders=1), file_rows(tmp_path / "raising", files))


def test_rows_that_failed_in_their_source_pass_through() -> None:
    rows = RowBuilder("test")
    rows.add(
        SourceRow(kind="bytes", locator="x", status="failed_to_decode", error="no image member")
    )
    table = next(rows.take(all_rows=True))
    assert outcome(Download(), table)[0]["error"] == "no image member"


@pytest.mark.usefixtures("in_this_process")
def test_a_reader_that_stops_early_leaves_nothing_behind(server: Loopback) -> None:
    server.pages = {f"/{i}.jpg": encoded(photo(seed=i)) for i in range(40)}
    stage = Download(allow_hosts=(server.host,), decoders=1, connections=4)
    generator = stage.map(url_rows(*[server.url(path) for path in server.pages]))
    assert len(next(generator)) == 1
    generator.close()


def test_a_worker_opens_with_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    here = len(os.sched_getaffinity(0))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert cores() == here
    # As Ray tells its workers; what else stands there says nothing.
    for said, wanted in (("1", 1), ("1000", here), ("0", here), ("2,1", here)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert cores() == wanted


def test_only_what_may_heal_heals() -> None:
    stage = Download()
    assert stage.is_retryable("failed_to_download", "http 503")
    assert stage.is_retryable("failed_to_download", "timed out")
    assert not stage.is_retryable("failed_to_download", "http 404")
    assert not stage.is_retryable("failed_to_decode", "not decodable")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"resize_mode": "crop"}, "choose one of no, keep_ratio"),
        ({"encode_format": "png"}, "between 0 and 9"),
        ({"image_size": 0}, "must be above 0"),
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Download(**fields).check()
