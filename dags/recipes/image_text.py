"""The image-text recipe: from URLs or files to training shards."""

from __future__ import annotations

from typing import Any

from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.captions.caption_facts import CaptionFacts
from gristmill.pipelines.captions.caption_language import CaptionLanguage
from gristmill.pipelines.captions.clean_captions import CleanCaptions
from gristmill.pipelines.dedup.caption_duplicates import CaptionDuplicates
from gristmill.pipelines.dedup.decontaminate import Decontaminate
from gristmill.pipelines.dedup.image_duplicates import Duplicates
from gristmill.pipelines.dedup.local_feature_duplicates import RobustCopies
from gristmill.pipelines.dedup.semantic_clusters import SemanticClusters
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.clip_score import ClipScore
from gristmill.pipelines.images.embedding_heads import EmbeddingHeads
from gristmill.pipelines.images.image_facts import ImageFacts
from gristmill.pipelines.images.local_features import LocalFeatures
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.keep import Keep, Prefilter
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.licences import LicenceFacts
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.sources.source_columns import SourceColumns
from gristmill.pipelines.tokens.tokens import Tokens

# In this order: the first that a row breaks is its reason.
RULES = {
    "too small": "least(original_width, original_height) < 64",
    "extreme aspect": "aspect > 3",
    "blank": "blank_share > 0.95",
    "no caption": "caption IS NULL OR caption_chars = 0",
    "boilerplate caption": "caption_boilerplate",
    "short caption": "caption_words < 2 OR caption_chars < 5",
    "markup in caption": "caption_markup",
    "address in caption": "caption_url OR caption_email OR caption_phone",
    "copy of another image": "duplicate_of IS NOT NULL",
    "weak caption match": "clip_score < quantile(clip_score, 0.30)",
}

# The encoder that tokenizes for the model of this package.
ENCODER = "gristmill.model.shard_tokens:ShardTokens"


def image_text(**source: Any) -> Dag:
    """Download, clean captions, describe, deduplicate, keep, shard.

        gristmill run image-text --source urls.parquet --out runs/mine

    Cost: benchmarks/README.md has figures for download, scores and duplicates; CLIP on a CPU costs
    more than all else together. Expect the default rules to keep between half and two thirds of
    what can be downloaded: `weak caption match` alone drops the lowest 30 % of CLIP scores. Leave a
    rule out with `--set "keep.rules.weak caption match="`. With
    `--set tokens.images=codec.safetensors` the shards carry image codes. Columns that no default
    rule names (language, semantic neighbours, repeated captions) are there for `gristmill keep`.
    """
    return Dag(
        name="image-text",
        nodes={
            "source": Node(Source(**source)),
            # Idle until --keep-columns names some.
            "source_columns": Node(SourceColumns(), ("source",)),
            # Idle until licences.enabled=true: SPDX identifiers, for rules.
            "licences": Node(LicenceFacts(enabled=False), ("source",)),
            # Of what is not even to be fetched; idle until it has rules or a subset.
            "prefilter": Node(Prefilter(), ("source_columns", "licences")),
            "download": Node(Download(), ("prefilter",)),
            "captions": Node(CleanCaptions(), ("download",)),
            "clip": Node(ClipScore(), ("captions",)),
            # A second model, such as a filter network; idle until it is given one.
            "filter": Node(
                ClipScore(model="", name="filter_score", embeddings=False), ("captions",)
            ),
            # Idle until it is given weights.
            "heads": Node(EmbeddingHeads(), ("clip",)),
            "hash": Node(PerceptualHash(), ("captions",)),
            "image_facts": Node(ImageFacts(), ("captions",)),
            "caption_facts": Node(CaptionFacts(), ("captions",)),
            "language": Node(CaptionLanguage(), ("captions",)),
            "duplicates": Node(Duplicates(), ("hash", "clip")),
            # Copies that a hash does not see. They cost as much as all other scores but CLIP, so
            # both are idle until features.count=64 and robust.enabled=true.
            "features": Node(LocalFeatures(count=0), ("captions",)),
            "robust": Node(RobustCopies(enabled=False), ("features", "duplicates")),
            "semantic": Node(SemanticClusters(), ("clip",)),
            "caption_copies": Node(CaptionDuplicates(), ("clip",)),
            # Idle until it is given evaluation sources.
            "decontaminate": Node(Decontaminate(), ("hash",)),
            "keep": Node(
                Keep(rules=RULES),
                (
                    "clip",
                    "filter",
                    "heads",
                    "image_facts",
                    "caption_facts",
                    "language",
                    "duplicates",
                    "robust",
                    "semantic",
                    "caption_copies",
                    "decontaminate",
                ),
            ),
            # Of what was kept only; idle until it is given a codec.
            "tokens": Node(Tokens(encoder=ENCODER), ("keep",)),
            "shards": Node(Shards(), ("tokens",)),
        },
        doc=(image_text.__doc__ or "").strip().splitlines()[0],
    )
