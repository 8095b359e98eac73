"""What a lease says of its holder, and how long it holds; who holds one is in test_run_lock.py."""

from __future__ import annotations

import uuid

import pytest

from gristmill.dags.engine.lease import TERM, Holder, no_lock_there, term_s, written_by
from gristmill.errors import ConfigurationError
from gristmill.pipelines.storage import Folder


def test_what_lies_in_a_lock_says_who_writes() -> None:
    here = Holder.here()
    assert Holder.parse(here.stored()) == here and f"process {here.pid} on {here.host}" in str(here)
    folder = Folder(f"memory://{uuid.uuid4().hex}")
    assert f"{folder.url} is being written by {here}" in str(written_by(folder, here))
    assert "--no-lock" in str(no_lock_there(folder))


@pytest.mark.parametrize("data", [b"", b"host:17", b'{"of": "another version"}', b"[1]"])
def test_a_lock_that_says_nothing_known_is_somebodys(data: bytes) -> None:
    assert str(Holder.parse(data)) == "a process that does not say who it is"


def test_the_term_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TERM, raising=False)
    assert term_s() == 60
    monkeypatch.setenv(TERM, "7.5")
    assert term_s() == 7.5
    for wrong in ("0", "-1", "inf", "nan", "soon"):
        monkeypatch.setenv(TERM, wrong)
        with pytest.raises(ConfigurationError, match=TERM):
            term_s()
