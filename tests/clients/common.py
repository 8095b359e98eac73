"""What every client's script needs; standard library alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARS, PARQUETS = Path(sys.argv[1]), Path(sys.argv[2])


def samples(product: Path, split: str = "train") -> int:
    """How many the manifest promises."""
    manifest = json.loads((product / "manifest.json").read_text())
    return sum(int(shard["samples"]) for shard in manifest["splits"][split]["shards"])


def files(product: Path, ending: str, split: str = "train") -> list[str]:
    """Shards of a split."""
    return sorted(str(path) for path in (product / split).glob(f"*.{ending}"))


def report(**facts: Any) -> None:
    """One line for the caller."""
    print(json.dumps(facts))
