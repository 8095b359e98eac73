"""Selections that people know by name, as rules over the columns of a scored run.

The rules keep the meaning of what was published and its numbers; columns are ours. A selection that
names a column the run does not have says which node writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gristmill.dags.recipes.image_text import RULES
from gristmill.dags.runs.plan import open_run
from gristmill.errors import ConfigurationError, nearest
from gristmill.pipelines.keep import Keep


@dataclass(frozen=True)
class Selection:
    """Named rules, whence they are, and what they need."""

    rules: Mapping[str, str]
    doc: str
    # Column -> what a run must have for it, where that is not the recipe's default.
    needs: Mapping[str, str]


_ENGLISH = "caption_language IS NULL OR caption_language <> 'en'"
_BASIC = {
    "not English": _ENGLISH,
    "short caption": "caption_words <= 2 OR caption_chars <= 5",
    "too small": "least(original_width, original_height) < 200",
    "extreme aspect": "aspect > 3",
}
_TARGET = {"near_target": "semantic.target=EMBEDDINGS.npy, those of images you want more of"}
_FILTER = {"filter_score": "filter.model=local-dir:FOLDER, a network of `gristmill train-filter`"}

SELECTIONS = {
    "default": Selection(RULES, "The rules of the image-text recipe.", {}),
    "laion": Selection(
        {
            "short caption": "caption_chars < 5",
            "small file": "received_bytes < 5000",
            "copy of another image": "duplicate_of IS NOT NULL",
            "weak caption match": (
                "clip_score < CASE caption_language WHEN 'en' THEN 0.28 ELSE 0.26 END"
            ),
        },
        "LAION-5B (Schuhmann et al. 2022): captions of 5 characters, files of 5 kB, cosine of 0.28 "
        "(ViT-B/32) for English and 0.26 for the rest.",
        {},
    ),
    "datacomp-basic": Selection(
        _BASIC, "DataComp's basic filter (Gadre et al. 2023): English, length, size, aspect.", {}
    ),
    "clip-top-30": Selection(
        {"weak caption match": "clip_score < quantile(clip_score, 0.70)"},
        "DataComp's CLIP score filter: the best 30 % by CLIP score.",
        {},
    ),
    "image-based": Selection(
        {**_BASIC, "far from the target": "NOT near_target"},
        "DataComp's image-based filter: basic, and in a cluster next to an image of a target set.",
        _TARGET,
    ),
    "datacomp-best": Selection(
        {
            "not English": _ENGLISH,
            "far from the target": "NOT near_target",
            "weak caption match": "clip_score < quantile(clip_score, 0.70)",
        },
        "DataComp's best baseline: image-based and the best 30 % by CLIP score.",
        _TARGET,
    ),
    "dfn": Selection(
        {"filter network": "filter_score < quantile(filter_score, 0.85)"},
        "Data Filtering Networks (Fang et al. 2023): the best 15 % of a network trained to filter.",
        _FILTER,
    ),
    "semdedup": Selection(
        {
            "copy of another image": "duplicate_of IS NOT NULL",
            "semantic copy": "semantic_similarity > 0.95",
        },
        "SemDeDup (Abbas et al. 2023): near a better image in the space of embeddings.",
        {},
    ),
    "density": Selection(
        {"dense": "density_share > 0.5"},
        "Density-based pruning (Abbas et al. 2024) to half of the corpus.",
        {},
    ),
    "fineweb-captions": Selection(
        {
            "no caption": "caption IS NULL OR caption_chars = 0",
            "short caption": "caption_words < 3",
            "few letters": "caption_alpha_share < 0.6",
            "repetitive caption": "caption_repetition > 0.2",
            "boilerplate caption": "caption_boilerplate",
            "markup in caption": "caption_markup",
            "address in caption": "caption_url OR caption_email OR caption_phone",
            "uncertain language": "coalesce(caption_language_confidence, 0) < 0.65",
            "said too often": "caption_copy_rank >= 10",
            "near copy of a caption": "caption_jaccard < 1 AND caption_group_rank > 0",
        },
        "FineWeb's rules for pages (Penedo et al. 2024: C4, Gopher, language at 0.65, MinHash), as "
        "far as they make sense for captions.",
        {},
    ),
}


def find_selection(name: str) -> Selection:
    """The selection of a name; raises `ConfigurationError` for an unknown one."""
    if name not in SELECTIONS:
        raise ConfigurationError(f"no selection {name!r}; {nearest(name, list(SELECTIONS))}")
    return SELECTIONS[name]


def rules_of_run(out: str) -> Mapping[str, str]:
    """The rules of a run's last Keep node."""
    dag = open_run(out).dag
    stages = [dag.stage(name) for name in dag.order()]
    keeps = [stage for stage in stages if isinstance(stage, Keep)]
    return keeps[-1].rules if keeps else {}
