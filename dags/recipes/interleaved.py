"""The interleaved recipe: from documents of texts and pictures to shards, a document a sample."""

from __future__ import annotations

from typing import Any

from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.captions.caption_language import CaptionLanguage
from gristmill.pipelines.dedup.image_duplicates import Duplicates
from gristmill.pipelines.documents.assemble_documents import AssembleDocuments
from gristmill.pipelines.documents.document_facts import DocumentFacts
from gristmill.pipelines.documents.document_images import DocumentImages
from gristmill.pipelines.documents.repeated_images import RepeatedImages
from gristmill.pipelines.documents.text_match import TextMatch
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.image_facts import ImageFacts
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.source_columns import SourceColumns
from gristmill.pipelines.tokens.multi_image_tokens import DocumentTokens

# Of pictures, in this order. MMC4 asks for 150 pixels, OBELICS for 150 and an aspect below 2.
IMAGE_RULES = {
    "too small": "least(original_width, original_height) < 100",
    "extreme aspect": "aspect > 3",
    "blank": "blank_share > 0.95",
    "in many documents": "image_documents > 10",
    "fits no text": "clip_score < quantile(clip_score, 0.10)",
}
# Of documents.
DOCUMENT_RULES = {
    "too little text": "text_chars < 100",
    "text repeats itself": "repeated_text_share > 0.5",
    "pictures in a row": "images_in_a_row > 8",
}
ENCODER = "gristmill.model.shard_tokens:ShardTokens"


def interleaved(**source: Any) -> Dag:
    """Fetch the pictures of documents, choose among them, put the documents together again, shard.

        gristmill run interleaved --source documents.jsonl --out runs/documents

    The source is JSON lines or Parquet in the form of MMC4 or OBELICS, or a folder of HTML files.
    Each picture is a row until `documents`: it is scored, compared with all others and dropped by
    itself; what is left of a document goes on as one row, its texts in order, its pictures in their
    places. `--set documents.placement=match` moves each picture before the text it fits best.
    """
    return Dag(
        name="interleaved",
        nodes={
            "source": Node(DocumentSource(**source)),
            "images": Node(DocumentImages(), ("source",)),
            "download": Node(Download(), ("images",)),
            "clip": Node(TextMatch(), ("download",)),
            "hash": Node(PerceptualHash(), ("download",)),
            "image_facts": Node(ImageFacts(), ("download",)),
            "duplicates": Node(Duplicates(prefer=()), ("hash",)),
            "repeated": Node(RepeatedImages(), ("duplicates",)),
            "keep_images": Node(Keep(rules=IMAGE_RULES), ("clip", "image_facts", "repeated")),
            "documents": Node(AssembleDocuments(), ("keep_images",)),
            # Idle until --keep-columns names some.
            "source_columns": Node(SourceColumns(), ("documents",)),
            "facts": Node(DocumentFacts(), ("source_columns",)),
            "language": Node(CaptionLanguage(), ("documents",)),
            "keep": Node(Keep(rules=DOCUMENT_RULES), ("facts", "language")),
            # Of what was kept only; idle until it is given a codec.
            "tokens": Node(DocumentTokens(encoder=ENCODER), ("keep",)),
            "shards": Node(Shards(media="document", samples_per_shard=1_000), ("tokens",)),
        },
        doc=(interleaved.__doc__ or "").strip().splitlines()[0],
    )
