"""Other people's readers, each in a virtual environment of its own, on shards that we write.

python tests/clients/run.py [--only NAME ...] [--keep FOLDER]

Needs a package index. Clients that need torch take the one that is installed here; everything else
is installed anew. Prints a line for each client; exits with 1 if one does not read everything.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from shard_set import build

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Client:
    """What to install, and which script reads."""

    requirements: tuple[str, ...]
    script: str
    # Takes torch from here.
    torch: bool = False


CLIENTS = {
    "webdataset 0.2": Client(("webdataset==0.2.111", "pillow"), "read_webdataset.py"),
    "webdataset 1": Client(("webdataset>=1,<2", "pillow"), "read_webdataset.py"),
    "wids": Client(("webdataset==0.2.111", "pillow"), "read_wids.py", torch=True),
    "open_clip_train": Client(("open_clip_torch[training]>=3.2",), "read_open_clip.py", torch=True),
    "datasets": Client(("datasets>=4", "pillow"), "read_datasets.py"),
    "energon": Client(("megatron-energon>=7",), "read_energon.py", torch=True),
    "datacomp subset": Client(("numpy", "pyarrow"), "read_subset.py"),
    "polars": Client(("polars", "pillow"), "read_polars.py"),
    "duckdb": Client(("duckdb",), "read_duckdb.py"),
    "mlcroissant": Client(("mlcroissant[parquet]>=1", "pillow"), "read_croissant.py"),
}


def make_venv(folder: Path, client: Client) -> Path:
    """A python with the client's requirements."""
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        python = folder / "bin" / "python"
        if client.torch:
            # Behind the client's own packages: whatever it does not bring is found here.
            ours = sysconfig.get_paths()["purelib"]
            theirs = next((folder / "lib").glob("python*")) / "site-packages"
            (theirs / "zz_installed_here.pth").write_text(ours + "\n")
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, *client.requirements], check=True, stderr=subprocess.PIPE)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def main() -> None:
    """Build shards, ask every client."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(CLIENTS), default=list(CLIENTS))
    parser.add_argument("--keep", default="", help="Folder of the environments, for another time.")
    options = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        shards = Path(scratch)
        build(shards / "tars", [13])
        build(shards / "parquets", [13], format="parquet")
        for name in options.only:
            client = CLIENTS[name]
            folder = Path(options.keep or scratch) / ("venv-" + name.replace(" ", "-"))
            try:
                python = make_venv(folder, client)
            except subprocess.CalledProcessError as error:
                print(f"{name}: cannot be installed: {error.stderr.decode()[-300:]}")
                failed = True
                continue
            where = (shards / "tars" / "product", shards / "parquets" / "product")
            done = subprocess.run(
                [str(python), str(HERE / client.script), *map(str, where)],
                capture_output=True, text=True, check=False, cwd=scratch,
                env={**os.environ, "HF_HOME": scratch, "PYTHONWARNINGS": "ignore"},
            )  # fmt: skip
            if done.returncode:
                failed = True
                print(f"{name}: FAILED\n{done.stdout[-500:]}{done.stderr[-3000:]}")
            else:
                facts = json.loads(done.stdout.strip().splitlines()[-1])
                print(f"{name}: " + ", ".join(f"{k} {v}" for k, v in facts.items()), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
