"""A walk finds what is whole and how large it is; what is not just so is left to a decoder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from colour_profiles import swapped_profile
from faulty_web import encoded, photo

from gristmill.errors import ConfigurationError
from gristmill.pipelines.download import transfer
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.download.picture_bytes import orientation_of
from gristmill.pipelines.download.walk_picture import walk_picture
from gristmill.pipelines.sources.pointer import file_pointer
from gristmill.pipelines.sources.row_builder import RowBuilder, SourceRow


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    memory = io.BytesIO()
    PIL.Image.fromarray(photo()[:, :, ::-1]).convert(mode).save(memory, kind, **options)
    return memory.getvalue()


def turned() -> PIL.Image.Exif:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return exif


KINDS = {
    "baseline": saved("JPEG"),
    "progressive": saved("JPEG", progressive=True),
    "restarts": saved("JPEG", restart_marker_blocks=2),
    "grey": saved("JPEG", "L"),
    "cmyk": saved("JPEG", "CMYK"),
    "png": saved("PNG"),
    "palette": saved("PNG", "P"),
    "interlaced": encoded(".png"),
    "lossy webp": saved("WEBP"),
    "lossless webp": saved("WEBP", lossless=True),
    "webp with alpha": saved("WEBP", "RGBA"),
    "jpeg with exif": saved("JPEG", exif=turned()),
    "png with exif": saved("PNG", exif=turned()),
    "webp with exif": saved("WEBP", exif=turned()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_is_walked_to_its_end(kind: str) -> None:
    walked = walk_picture(KINDS[kind])
    assert walked is not None and (walked.width, walked.height) == (128, 96)
    assert orientation_of(walked.exif) == (6 if "exif" in kind else 1)
    assert not walked.has_profile
    assert walk_picture(KINDS[kind] + b"what follows the end") is not None


@pytest.mark.parametrize("kind", KINDS)
def test_what_ends_early_anywhere_is_not(kind: str) -> None:
    data = KINDS[kind]
    for end in range(1, len(data) - 1, max(1, len(data) // 150)):
        assert walk_picture(data[:end]) is None, end


@pytest.mark.parametrize("kind", KINDS)
def test_no_bytes_make_it_raise(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(KINDS[kind])
        for at in rng.integers(2, min(len(data), 600), 3):
            data[at] = rng.integers(256)
        walk_picture(bytes(data))


def test_a_profile_is_seen() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        walked = walk_picture(saved(kind, icc_profile=swapped_profile()))
        assert walked is not None and walked.has_profile


def test_other_formats_are_not_walked() -> None:
    assert walk_picture(encoded(".bmp")) is walk_picture(b"") is walk_picture(b"<html>") is None


def outcomes(folder: Path, files: dict[str, bytes], **fields: Any) -> dict[str, dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    rows = RowBuilder("own")
    for name, data in files.items():
        (folder / name).write_bytes(data)
        pointer = file_pointer(str(folder / name))
        rows.add(SourceRow(kind="path", locator=name, pointer=pointer, caption=name))
    stage = Download(reencode="never", mixed=True, **fields)
    table = stage(next(rows.take(all_rows=True)))
    return {row["caption"]: row for row in table.to_pylist()}


def test_a_walk_keeps_what_decoding_keeps_and_says_which(tmp_path: Path) -> None:
    jpeg = KINDS["baseline"]
    files = {
        **{name: data for name, data in KINDS.items()},
        "profile": saved("JPEG", icc_profile=swapped_profile()),
        "bmp": encoded(".bmp"),
        # Decoders pass over both.
        "junk between segments": jpeg[:2] + b"junk" + jpeg[2:],
        "no end mark": jpeg[:-2],
        "cut": jpeg[: len(jpeg) // 2],
        "html": b"<html></html>",
        "empty": b"",
    }
    decoded = outcomes(tmp_path, files)
    walked = outcomes(tmp_path, files, verify="structure")
    for name, row in walked.items():
        verified = row.pop("verified")
        assert row == decoded[name], name
        assert verified == ("structure" if name in {*KINDS, "profile"} else
                            "decoded" if row["status"] == "success" else None), name  # fmt: skip


def test_what_is_only_walked_needs_no_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer.Child, "start", lambda self: pytest.fail("a child was started"))
    found = outcomes(tmp_path, {"a": KINDS["baseline"]}, verify="structure")["a"]
    assert found["status"] == "success" and found["verified"] == "structure"
    limited = outcomes(tmp_path, {"a": KINDS["baseline"]}, verify="structure", max_pixels=100)
    assert limited["a"]["error"] == "decompression bomb"
    small = outcomes(tmp_path, {"a": KINDS["png"]}, verify="structure", min_image_size=200)
    assert small["a"]["error"] == "image too small"


def test_it_is_of_what_is_passed_through() -> None:
    with pytest.raises(ConfigurationError, match="reencode=never"):
        Download(verify="structure").check()
