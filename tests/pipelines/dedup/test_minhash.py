"""Captions as shingles: their similarity, exact and by signatures."""

from __future__ import annotations

import numpy as np

from gristmill.pipelines.dedup.minhash import Shingles, caption_words, minhash, shingle_hashes


def test_words_are_folded_and_a_caption_without_any_is_none() -> None:
    assert caption_words("A Ｄog, a dog") == ["a", "dog", "a", "dog"]
    assert caption_words("…!") is None and caption_words(None) is None


def test_the_ends_of_a_caption_count_as_words() -> None:
    assert len(shingle_hashes(["a", "b"], 2)) == 3
    assert len(shingle_hashes(["a", "b"], 1)) == 2
    # Fewer words than a shingle has are one shingle.
    assert len(shingle_hashes(["a"], 5)) == 1


def test_jaccard_is_exact_and_signatures_come_near() -> None:
    texts = [f"w{i}" for i in range(100)], [f"w{i}" for i in range(50, 150)]
    sets = [shingle_hashes(words, 1) for words in texts]
    flat, ends = np.concatenate(sets), np.cumsum([len(one) for one in sets]).astype(np.int64)
    dense = np.unique(flat, return_inverse=True)[1].astype(np.int32)
    pairs = np.array([0, 0]), np.array([1, 0])
    assert np.allclose(Shingles(dense, ends).jaccard(*pairs), [1 / 3, 1])
    # Captions of any length: a few pairs at a time.
    long = np.arange(300_000, dtype=np.int32)
    both = Shingles(np.concatenate([long, long]), np.array([300_000, 600_000]))
    assert both.jaccard(np.zeros(50, np.int64), np.ones(50, np.int64)).tolist() == [1] * 50
    signatures = minhash(flat, ends, 512, 0)
    assert abs((signatures[0] == signatures[1]).mean() - 1 / 3) < 0.1
    assert minhash(flat[:0], ends[:0], 8, 0).shape == (0, 8)
