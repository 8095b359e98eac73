"""Pictures as bags of words: their index, and who shares most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from memory_workspace import MemoryWorkspace

from gristmill.pipelines.dedup.part_arrays import PartArrays
from gristmill.pipelines.dedup.visual_words import SparseRows, bags_of_words, likeliest

WEIGHT = np.array([1, 2, 0, 2], np.float32)
WORDS = np.array(
    [[0, 1, 1], [2, -1, -1], [3, 0, 1], [1, 0, -1], [3, 3, 3]], np.int32
)  # Of five pictures.


def dense(rows: SparseRows) -> np.ndarray:
    return rows.matrix().toarray()


def test_bags_have_unit_length_each_word_once_and_no_worthless_one() -> None:
    found = dense(bags_of_words(WORDS, WEIGHT))
    assert np.allclose(found[0], np.array([1, 2, 0, 0]) / np.sqrt(5))
    assert not found[1].any() and not found[:, 2].any()
    assert np.allclose(np.linalg.norm(found, axis=1), [1, 0, 1, 1, 1])


def test_an_index_is_the_transpose_and_comes_back_as_it_was(tmp_path: Path) -> None:
    bags = bags_of_words(WORDS, WEIGHT)
    arrays = PartArrays(MemoryWorkspace([pa.table({"x": [0]})], tmp_path), "bags")
    bags.turned().save(arrays, 0)
    assert (dense(SparseRows.load(arrays, 0)) == dense(bags).T).all()


def test_the_likeliest_come_first_wherever_parts_are_cut() -> None:
    bags = bags_of_words(WORDS, WEIGHT)
    whole = list(likeliest(bags, [bags.turned()], 0, 2))
    # The first and the fourth have the same words, and the third those and one more.
    assert whole == [(0, [3, 2]), (1, []), (2, [0, 3]), (3, [0, 2]), (4, [2])]
    parts = [bags_of_words(WORDS[:2], WEIGHT), bags_of_words(WORDS[2:], WEIGHT)]
    inverted = [part.turned() for part in parts]
    assert [
        *likeliest(parts[0], inverted, 0, 2),
        *likeliest(parts[1], inverted, 2, 2),
    ] == whole
