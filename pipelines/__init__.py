"""Stages: one capability a file. `stage_class` finds one by the name it has in a DAG file."""

from __future__ import annotations

import importlib

from gristmill.errors import ConfigurationError, GraphError
from gristmill.pipelines.user_code import import_named

# Name in a DAG file -> module. Imported on demand, so that `plan` never loads torch.
STAGES = {
    "Source": "gristmill.pipelines.sources.source",
    "SourceColumns": "gristmill.pipelines.sources.source_columns",
    "Download": "gristmill.pipelines.download.images",
    "ClipScore": "gristmill.pipelines.images.clip_score",
    "PerceptualHash": "gristmill.pipelines.images.perceptual_hash",
    "ImageFacts": "gristmill.pipelines.images.image_facts",
    "LicenceFacts": "gristmill.pipelines.sources.licences",
    "CaptionFacts": "gristmill.pipelines.captions.caption_facts",
    "CleanCaptions": "gristmill.pipelines.captions.clean_captions",
    "CaptionLanguage": "gristmill.pipelines.captions.caption_language",
    "EmbeddingHeads": "gristmill.pipelines.images.embedding_heads",
    "Duplicates": "gristmill.pipelines.dedup.image_duplicates",
    "LocalFeatures": "gristmill.pipelines.images.local_features",
    "RobustCopies": "gristmill.pipelines.dedup.local_feature_duplicates",
    "SemanticClusters": "gristmill.pipelines.dedup.semantic_clusters",
    "CaptionDuplicates": "gristmill.pipelines.dedup.caption_duplicates",
    "Decontaminate": "gristmill.pipelines.dedup.decontaminate",
    "DocumentSource": "gristmill.pipelines.sources.documents",
    "DocumentImages": "gristmill.pipelines.documents.document_images",
    "AssembleDocuments": "gristmill.pipelines.documents.assemble_documents",
    "TextMatch": "gristmill.pipelines.documents.text_match",
    "RepeatedImages": "gristmill.pipelines.documents.repeated_images",
    "DocumentFacts": "gristmill.pipelines.documents.document_facts",
    "Messages": "gristmill.pipelines.documents.messages",
    "EditFacts": "gristmill.pipelines.images.edit_facts",
    "EditScore": "gristmill.pipelines.images.edit_facts",
    "DownloadVideo": "gristmill.pipelines.download.videos",
    "Shots": "gristmill.pipelines.videos.shots",
    "Clips": "gristmill.pipelines.videos.split_clips",
    "ClipFacts": "gristmill.pipelines.videos.clip_facts",
    "FrameClipScore": "gristmill.pipelines.videos.frame_clip_score",
    "ClipSignature": "gristmill.pipelines.videos.video_fingerprint",
    "ClipDuplicates": "gristmill.pipelines.dedup.video_duplicates",
    "Tokens": "gristmill.pipelines.tokens.tokens",
    "DocumentTokens": "gristmill.pipelines.tokens.multi_image_tokens",
    "FrameTokens": "gristmill.pipelines.tokens.multi_image_tokens",
    "Keep": "gristmill.pipelines.keep",
    "Prefilter": "gristmill.pipelines.keep",
    "Shards": "gristmill.pipelines.shards.shards",
}


def stage_class(name: str) -> type:
    """The class of a stage: a name of ours, or `package.module:Class` for anybody else's."""
    if ":" not in name:
        if name not in STAGES:
            import difflib

            near = difflib.get_close_matches(name, STAGES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(STAGES)}"
            raise GraphError(f"unknown stage {name!r}; {hint} (others: 'package.module:Class')")
        try:
            found: object = getattr(importlib.import_module(STAGES[name]), name)
        except ImportError as error:
            raise GraphError(f"stage {name!r} cannot be imported: {error}") from error
    else:
        try:
            found = import_named(name)
        except ConfigurationError as error:
            raise GraphError(f"stage {error}") from error
    if not isinstance(found, type):
        raise GraphError(f"{name!r} is not a class")
    return found


def stage_name(cls: type) -> str:
    """The name under which `stage_class` finds `cls` again."""
    if STAGES.get(cls.__name__) == cls.__module__:
        return cls.__name__
    return f"{cls.__module__}:{cls.__qualname__}"
