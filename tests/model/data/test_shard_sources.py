"""Tars of anybody in a training: the keys of the source, and what cannot be used is counted."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from source_files import read, write_tar

from gristmill.errors import ShardError
from gristmill.model.data.shard_sources import DataSource, TarSamples, open_samples


def flat(value: int) -> bytes:
    """A picture of one grey."""
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def greys(samples: TarSamples) -> list[int]:
    """Of the pictures without fault."""
    faults = samples.table(0)["fault"].to_pylist()
    return [int(samples.picture(0, row).mean()) for row, why in enumerate(faults) if why is None]


MEMBERS: list[tuple[str, bytes | str]] = [
    ("._0.png", b"\0"),
    *[(f"./a.b/IMG 2.{i}.{end}", data) for i in range(3) for end, data in
      (("png", flat(i)), ("txt", f"c{i}".encode()))],
    ("./a.b/7.png", "a.b/IMG 2.1.png"), ("./a.b/7.txt", "a.b/IMG 2.2.txt"),
    ("8.png", flat(8)), ("8.jpg", flat(9)), ("9.txt", b"no picture"),
]  # fmt: skip


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz", "tar.zst"])
def test_the_trainer_reads_what_the_source_reads(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tars").mkdir()
    path = tmp_path / "tars" / f"a.{ending}"
    if ending == "tar.zst":
        import pyarrow as pa

        plain = write_tar(tmp_path / "a.tar", MEMBERS)
        with pa.output_stream(str(path), compression="zstd") as file:
            file.write(plain.read_bytes())
    else:
        packed = ending.rpartition(".")[2]
        write_tar(path, MEMBERS, "w" if packed == "tar" else f"w:{packed}")
    samples = open_samples(DataSource(url=str(path.parent)))
    assert isinstance(samples, TarSamples)
    kept = [row for row in read(path) if not row["error"]]
    table = samples.table(0)
    table = table.filter(table["fault"].is_null())
    assert table["caption"].to_pylist() == [row["caption"] for row in kept]
    assert table["uid"].to_pylist() == [json.loads(row["meta"])["sample_key"] for row in kept]
    assert greys(samples) == [0, 1, 2, 1]
    assert samples.left_out == {
        "several pictures in one sample": 2, "no image member": 1,
        "dot files or names without ending": 1,
    }  # fmt: skip
    # Unpacked once.
    cached = list((tmp_path / "cache").rglob("*.tar"))
    assert len(cached) == (ending != "tar")
    before = [file.stat().st_mtime_ns for file in cached]
    assert greys(TarSamples(str(path.parent))) == [0, 1, 2, 1]
    assert [file.stat().st_mtime_ns for file in cached] == before


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("0.png", flat(0)), ("1.png", flat(1)), ("0.txt", b"a"), ("1.txt", b"b")],
         "4 members not side by side"),
        ([("0.txt", b"a")], "1 no image member"),
        ([(".0.png", b"a")], "1 dot files"),
        ([], "they are empty"),
    ],
)  # fmt: skip
def test_tars_without_samples_are_not_called_unfinished(
    members: list[tuple[str, bytes | str]], reason: str, tmp_path: Path
) -> None:
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ShardError, match=f"hold no sample that can be used: {reason}"):
        open_samples(DataSource(url=str(tmp_path)))


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_a_broken_tar_is_named_before_a_step_is_made(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    noise = [np.random.default_rng(i).bytes(30_000) for i in range(2)]
    mode = "w" if name == "a.tar" else "w:gz"
    path = write_tar(tmp_path / name, [("0.png", noise[0]), ("1.png", noise[1])], mode)
    whole = path.read_bytes()
    for data in (whole[:40_000], whole[:20_000], whole[:9] + whole[900:]):
        path.write_bytes(data)
        with pytest.raises(ShardError, match=r"a\.tar.* is not a whole tar .*write it again"):
            TarSamples(str(tmp_path))
