"""A sealed file says whether it is as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill.errors import BrokenRecordError
from gristmill.pipelines.patience import PATIENCE
from gristmill.pipelines.sealed import find_sealed, read_sealed, seal, unseal, write_sealed
from gristmill.pipelines.storage import Folder

VALUE = {"part": 3, "cost": 1e-05, "names": {"é": None}}


def test_any_bit_and_any_cut_is_found() -> None:
    whole = seal(VALUE)
    assert unseal(whole) == VALUE
    for at in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[at] ^= 1 << bit
            with pytest.raises(BrokenRecordError):
                unseal(bytes(changed))
        with pytest.raises(BrokenRecordError):
            unseal(whole[:at])


def test_one_of_a_time_before_seals_is_taken_as_it_is() -> None:
    assert unseal(b'{"part": 3}') == {"part": 3}
    for data in (b"[1]", b"", b'{"part": 3', b"\xff\xfe"):
        with pytest.raises(BrokenRecordError):
            unseal(data)


def test_a_broken_one_is_none_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "0")
    folder = Folder(str(tmp_path))
    assert find_sealed(folder, "x.json") is None
    write_sealed(folder, "x.json", VALUE)
    assert find_sealed(folder, "x.json") == VALUE
    folder.write_bytes("x.json", seal(VALUE)[:-9])
    assert find_sealed(folder, "x.json") is None
    with pytest.raises(BrokenRecordError, match=r"x\.json is no whole JSON.*gristmill repair"):
        read_sealed(folder, "x.json")
