from __future__ import annotations

import os
import subprocess
import uuid
from pathlib import Path

import pytest

from gristmill.dags.engine.run_lock import run_lock
from gristmill.errors import RunLockedError
from gristmill.pipelines.storage import Folder


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_second_writer_is_refused_and_the_lock_goes(place: str, tmp_path: Path) -> None:
    url = str(tmp_path) if place == "disk" else f"memory://{uuid.uuid4().hex}"
    folder = Folder(url)
    with run_lock(folder):
        if place == "disk":
            with pytest.raises(RunLockedError, match=f"process {os.getpid()}"), run_lock(folder):
                pass
        else:
            assert folder.read_bytes("run.lock").decode().endswith(f":{os.getpid()}")
    with run_lock(folder):
        pass
    if place == "memory":
        assert not folder.exists("run.lock")


def test_a_store_s_lock_of_another_machine_holds_and_of_a_dead_process_does_not() -> None:
    folder = Folder(f"memory://{uuid.uuid4().hex}")
    folder.write_bytes("run.lock", b"elsewhere:17")
    with (
        pytest.raises(RunLockedError, match=r"by elsewhere:17.*remove .*run\.lock"),
        run_lock(folder),
    ):
        pass
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    folder.write_bytes("run.lock", f"{os.uname().nodename}:{dead.pid}".encode())
    with run_lock(folder):
        assert folder.read_bytes("run.lock").decode().endswith(f":{os.getpid()}")
