"""Near-duplicate captions against exact comparison of all pairs."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from memory_workspace import MemoryWorkspace, run_global

from gristmill.errors import ConfigurationError
from gristmill.pipelines.dedup.caption_duplicates import CaptionDuplicates, shingle_hashes
from gristmill.pipelines.schema import digest_fields

WORDS = [f"word{i}" for i in range(400)]


def captions(count: int, seed: int) -> list[str]:
    """Captions of 8 to 30 words; half are others with a word changed, dropped or added."""
    rng = random.Random(seed)
    made = [" ".join(rng.choices(WORDS, k=rng.randint(8, 30))) for _ in range(count // 2)]
    while len(made) < count:
        words = rng.choice(made).split()
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(words))
            words[place : place + 1] = rng.choice([[], [rng.choice(WORDS)], [words[place], "new"]])
        made.append(" ".join(words))
    return made


def table(texts: list[str | None], scores: list[float] | None = None) -> pa.Table:
    return pa.table(
        {
            "uid": [digest_fields("row", str(i)) for i in range(len(texts))],
            "caption": pa.array(texts, pa.string()),
            "clip_score": pa.array(scores or [0.0] * len(texts), pa.float32()),
        }
    )


def run(stage: CaptionDuplicates, rows: pa.Table, cuts: list[int], folder: Path) -> pa.Table:
    parts = [rows.slice(a, b - a) for a, b in itertools.pairwise([0, *cuts, len(rows)])]
    return run_global(stage, MemoryWorkspace(parts, folder))


def test_recall_at_jaccard_08(tmp_path: Path) -> None:
    texts = captions(1200, 1)
    found = run(CaptionDuplicates(), table(texts), [500], tmp_path)
    groups = found["caption_group"].to_pylist()
    sets = [set(shingle_hashes(text.split(), 2).tolist()) for text in texts]
    close, wrong = 0, 0
    together = 0
    for i, j in itertools.combinations(range(len(texts)), 2):
        if len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= 0.8:
            close += 1
            together += groups[i] == groups[j]
        elif groups[i] == groups[j]:
            wrong += 1
    assert close > 100
    assert together / close >= 0.95
    # Pairs below the threshold are together only through a third.
    assert wrong <= close


def test_places_copies_and_leaders(tmp_path: Path) -> None:
    texts = [
        "A dog runs on the wet grass by the sea, all day and night",
        "a DOG runs on the wet grass by the sea; all day and night",
        "a dog runs on the wet grass by the sea all day and night long",
        None,
        "something else entirely",
        "!!!",
    ]
    found = run(CaptionDuplicates(), table(texts, [0.1, 0.3, 0.2, 0, 0, 0]), [1, 3], tmp_path)
    assert found["caption_copies"].to_pylist() == [2, 2, 1, 0, 1, 0]
    assert found["caption_copy_rank"].to_pylist() == [1, 0, 0, 0, 0, 0]
    assert found["caption_group_size"].to_pylist() == [3, 3, 3, 0, 1, 0]
    assert found["caption_group_rank"].to_pylist() == [2, 0, 1, 0, 0, 0]
    jaccard = found["caption_jaccard"].to_pylist()
    assert jaccard[:2] == [1, 1] and jaccard[3] is None
    assert 0.8 <= jaccard[2] < 1
    group = found["caption_group"].to_pylist()
    assert group[0] == group[1] == group[2] != group[4]
    assert group[3] is None and group[5] is None


def test_the_cut_into_parts_does_not_matter(tmp_path: Path) -> None:
    texts: list[str | None] = [*captions(300, 2), None, "", *captions(40, 2)]
    scores = np.random.default_rng(0).uniform(size=len(texts)).tolist()
    whole = run(CaptionDuplicates(), table(texts, scores), [], tmp_path / "a")
    cut = run(CaptionDuplicates(), table(texts, scores), [0, 7, 200], tmp_path / "b")
    assert whole.equals(cut)


def test_captions_of_one_template_do_not_cost_all_their_pairs(tmp_path: Path) -> None:
    """3,000 of them met in every band: 4.5 million pairs each, 90 million in all."""
    near = [
        "one of our many fine photographs from the long summer of last year by the old harbour "
        f"of the town, where the number of this picture is {i} among all of those that we have"
        for i in range(1500)
    ]
    # Signatures agree in a band though few words do: each has many of its own.
    apart = ["the same and the same " + " ".join(f"x{i}y{j}" for j in range(3)) for i in range(900)]
    found = run(CaptionDuplicates(), table([*near, *apart]), [700], tmp_path)
    group = found["caption_group"].to_pylist()
    assert len(set(group[:1500])) == 1 and not set(group[:1500]) & set(group[1500:])
    capped = found["caption_capped"].to_pylist()
    assert not any(capped[:1500]) and found["caption_capped"].null_count == 0
    few = run(CaptionDuplicates(bands=2, band_rows=1), table([None, *apart]), [], tmp_path / "b")
    assert any(few["caption_capped"].to_pylist()) and few["caption_capped"][0].as_py() is False


def test_words_of_scripts_without_spaces(tmp_path: Path) -> None:
    texts = ["一只红色的小狗在海边的草地上奔跑着", "一只红色的小狗在海边的草地上奔跑了", "别的东西"]
    found = run(CaptionDuplicates(shingle=1), table(texts), [], tmp_path)
    assert found["caption_group_size"].to_pylist() == [2, 2, 1]


@pytest.mark.parametrize("fields", [{"shingle": 0}, {"threshold": 0.0}, {"bands": 0}])
def test_bad_fields(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        CaptionDuplicates(**fields).check()


def test_no_captions_at_all(tmp_path: Path) -> None:
    found = run(CaptionDuplicates(), table([None, None]), [], tmp_path)
    assert found["caption_group_size"].to_pylist() == [0, 0]
    assert len(run(CaptionDuplicates(), table([]), [], tmp_path / "b")) == 0
