"""All pairs of 64-bit hashes within Hamming 6: seconds, memory, exactness.

    python benchmarks/hashes.py [--n 1000000] [--radius 6]

One hash in a hundred is a planted copy with up to `radius` bits flipped. Exactness is checked by
brute force on the first 20,000; faiss' own hash index is timed beside it on fewer hashes, five
pairs in turn.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from typing import Any

import numpy as np

from gristmill.pipelines.dedup.hamming import close_pairs, plan_bands, plan_tasks


def made(n: int, radius: int) -> Any:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, n, dtype=np.uint64)
    for i in range(n // 100):
        hashes[i] = hashes[n // 2 + i]
        for bit in rng.choice(64, int(rng.integers(0, radius + 1)), replace=False):
            hashes[i] ^= np.uint64(1) << np.uint64(bit)
    return hashes


def search(hashes: Any, radius: int) -> Any:
    """Unique pairs as an [k, 2] array."""
    found = [
        pairs
        for task in plan_tasks(len(hashes), radius)
        for pairs in close_pairs(hashes, radius, task)
    ]
    return np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 2), np.int64)


def brute_force(hashes: Any, radius: int) -> set[tuple[int, int]]:
    pairs = set()
    for i in range(len(hashes)):
        near = np.flatnonzero(np.bitwise_count(hashes[i + 1 :] ^ hashes[i]) <= radius)
        pairs |= {(i, i + 1 + int(j)) for j in near}
    return pairs


def faiss_pairs(hashes: Any, radius: int) -> int:
    """Pairs by faiss' multi-index hashing: 4 tables of 16 bits, 1 flip: exact up to radius 7."""
    import faiss

    data = hashes.view(np.uint8).reshape(-1, 8)
    index = faiss.IndexBinaryMultiHash(64, 4, 16)
    index.nflip = 1
    index.add(data)
    limits, _, neighbours = index.range_search(data, radius + 1)
    rows = np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64)))
    return int((rows < neighbours).sum())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--radius", type=int, default=6)
    arguments = parser.parse_args()
    n, radius = arguments.n, arguments.radius
    hashes = made(n, radius)
    bands = ", ".join(f"{band.width} bits within {band.radius}" for band in plan_bands(n, radius))
    start = time.perf_counter()
    pairs = search(hashes, radius)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    planted = {(i, n // 2 + i) for i in range(n // 100)}
    recall = len(planted & set(map(tuple, pairs.tolist()))) / len(planted)
    print(
        f"{n:,} hashes within {radius}: {seconds:.1f} s on one core, peak {peak:,.0f} MB, "
        f"{len(pairs):,} pairs, planted found {recall:.4f}; bands: {bands}"
    )
    some = np.concatenate([hashes[:200], hashes[n // 2 : n // 2 + 19_800]])
    exact = set(map(tuple, search(some, radius).tolist())) == brute_force(some, radius)
    print(f"equal to brute force on {len(some):,}: {exact}")
    fewer = made(min(n, 200_000), min(radius, 7))
    ratios, a, b = [], [], []
    for _ in range(5):
        start = time.perf_counter()
        mine = len(search(fewer, min(radius, 7)))
        middle = time.perf_counter()
        theirs = faiss_pairs(fewer, min(radius, 7))
        end = time.perf_counter()
        assert mine == theirs, (mine, theirs)
        a.append(middle - start)
        b.append(end - middle)
        ratios.append(b[-1] / a[-1])
    print(
        f"{len(fewer):,}: ours {statistics.median(a):.2f} s (one thread), faiss "
        f"IndexBinaryMultiHash {statistics.median(b):.2f} s (all threads), ratio "
        f"{statistics.median(ratios):.1f}, the same {mine:,} pairs"
    )


if __name__ == "__main__":
    main()
