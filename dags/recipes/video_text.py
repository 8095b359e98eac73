"""The video-text recipe: from videos to shards of clips with captions."""

from __future__ import annotations

from typing import Any

from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.captions.caption_facts import CaptionFacts
from gristmill.pipelines.captions.caption_language import CaptionLanguage
from gristmill.pipelines.dedup.semantic_clusters import SemanticClusters
from gristmill.pipelines.dedup.video_duplicates import ClipDuplicates
from gristmill.pipelines.download.videos import DownloadVideo
from gristmill.pipelines.keep import Keep, Prefilter
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.licences import LicenceFacts
from gristmill.pipelines.sources.source import Source
from gristmill.pipelines.sources.source_columns import SourceColumns
from gristmill.pipelines.tokens.multi_image_tokens import FrameTokens
from gristmill.pipelines.videos.clip_facts import ClipFacts
from gristmill.pipelines.videos.frame_clip_score import FrameClipScore
from gristmill.pipelines.videos.shots import Shots
from gristmill.pipelines.videos.split_clips import Clips
from gristmill.pipelines.videos.video_fingerprint import ClipSignature

# In this order: the first that a clip breaks is its reason.
RULES = {
    "too small": "least(original_width, original_height) < 128",
    "low frame rate": "fps < 5",
    "black": "black_share > 0.5",
    "static": "static_share > 0.9 OR motion < 0.002 AND camera_motion < 0.002",
    "black bars": "letterbox_share > 0.4",
    "covered with text": "text_share > 0.3",
    "not steady": "temporal_consistency < 0.5",
    "no caption": "caption IS NULL OR caption_chars = 0",
    "copy of another clip": "duplicate_of IS NOT NULL",
    "weak caption match": "clip_score < quantile(clip_score, 0.30)",
}
ENCODER = "gristmill.model.shard_tokens:ShardTokens"


def video_text(**source: Any) -> Dag:
    """Download videos, cut clips at shots, describe, deduplicate, keep, shard.

        gristmill run video-text --source videos.csv --out runs/clips

    A row is a video with its caption, or a stretch of one (columns `start` and `end`), or a file of
    a folder with a .txt beside it. Rules about looks and captions are guesses to begin with: see
    how clips are spread in the report, then `gristmill keep`. A source without captions needs
    `--set "keep.rules.no caption=" --set "keep.rules.weak caption match="`.
    """
    return Dag(
        name="video-text",
        nodes={
            "source": Node(Source(**{"kind": "video", **source})),
            # Idle until --keep-columns names some.
            "source_columns": Node(SourceColumns(), ("source",)),
            # Idle until licences.enabled=true: SPDX identifiers, for rules.
            "licences": Node(LicenceFacts(enabled=False), ("source",)),
            # Of what is not even to be fetched; idle until it has rules or a subset.
            "prefilter": Node(Prefilter(), ("source_columns", "licences")),
            "download": Node(DownloadVideo(), ("prefilter",)),
            "shots": Node(Shots(), ("download",)),
            "clips": Node(Clips(), ("shots",)),
            "clip": Node(FrameClipScore(), ("clips",)),
            "facts": Node(ClipFacts(), ("clips",)),
            "signature": Node(ClipSignature(), ("clips",)),
            "caption_facts": Node(CaptionFacts(), ("clips",)),
            "language": Node(CaptionLanguage(), ("clips",)),
            "duplicates": Node(ClipDuplicates(), ("signature",)),
            "semantic": Node(SemanticClusters(), ("clip",)),
            "keep": Node(
                Keep(rules=RULES),
                ("clip", "facts", "caption_facts", "language", "duplicates", "semantic"),
            ),
            # Of what was kept only; idle until it is given a codec.
            "tokens": Node(FrameTokens(encoder=ENCODER), ("keep",)),
            "shards": Node(Shards(media="video", samples_per_shard=1_000), ("tokens",)),
        },
        doc=(video_text.__doc__ or "").strip().splitlines()[0],
    )
