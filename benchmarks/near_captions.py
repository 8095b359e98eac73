"""Near copies among captions: ours beside datatrove's MinHash, on the same texts.

    uv venv peer && uv pip install --python peer/bin/python "datatrove[processing,io]" spacy
    python benchmarks/near_captions.py --peer peer/bin/python [--rows 200000]

Both by MinHash in bands, with the same shingles, bands and rows of a band; one process each. Ours
reads rows of a table, looks at each pair that meets and keeps facts of every row; datatrove reads
JSON lines and writes those that stay. Texts are words that nobody uses; a tenth are another with a
word changed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from selection import ManyParts, captions, measure

from gristmill.pipelines.dedup.caption_duplicates import CaptionDuplicates

PEER = """
import sys, time
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig

folder, shingle, bands, rows = sys.argv[1], *map(int, sys.argv[2:])
config = MinhashConfig(hash_config=HashConfig(precision=64), n_grams=shingle, num_buckets=bands,
                       hashes_per_bucket=rows)
read = lambda: JsonlReader(f"{folder}/texts")
start = time.perf_counter()
for name, tasks, pipeline in (
    ("signatures", 1, lambda: [read(), MinhashDedupSignature(f"{folder}/signatures", config)]),
    ("buckets", bands, lambda: [
        MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)]),
    ("cluster", 1, lambda: [
        MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config)]),
    ("filter", 1, lambda: [
        read(), MinhashDedupFilter(f"{folder}/remove"), JsonlWriter(f"{folder}/kept")]),
):
    begun = time.perf_counter()
    LocalPipelineExecutor(pipeline(), tasks=tasks, workers=1,
                          logging_dir=f"{folder}/logs/{name}").run()
    print("RESULT", name, round(time.perf_counter() - begun, 1))
print("RESULT all", round(time.perf_counter() - start, 1))
"""


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--peer", default=sys.executable, help="a Python that has datatrove")
    options = parser.parse_args()
    folder, parts = Path(tempfile.mkdtemp(prefix="near-captions-")), options.rows // 10_000
    stage = CaptionDuplicates()
    try:
        (folder / "texts").mkdir()
        with open(folder / "texts/0.jsonl", "w") as file:
            for part in range(parts):
                for row in captions(part, 10_000).to_pylist():
                    file.write(json.dumps({"text": row["caption"], "id": row["uid"]}) + "\n")
        sizes = [str(n) for n in (stage.shingle, stage.bands, stage.band_rows)]
        start = time.perf_counter()
        done = subprocess.run(
            [options.peer, "-c", PEER, str(folder), *sizes], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"datatrove: {done.stderr[-2000:]}")
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
        print("\n".join(lines), f"(with its start {time.perf_counter() - start:.1f} s)", flush=True)
        workspace = ManyParts(lambda part: captions(part, 10_000), parts, folder / "ours")
        start = time.perf_counter()
        found = measure(stage, workspace)
        print(f"ours, all: {time.perf_counter() - start:.1f} s, of which {found}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
