"""The edit recipe: from pairs of pictures around an instruction to shards with both pictures."""

from __future__ import annotations

from typing import Any

from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.captions.caption_facts import CaptionFacts
from gristmill.pipelines.documents.assemble_documents import AssembleDocuments
from gristmill.pipelines.documents.document_images import DocumentImages
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.edit_facts import EditFacts, EditScore
from gristmill.pipelines.images.image_facts import ImageFacts
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.source_columns import SourceColumns
from gristmill.pipelines.tokens.multi_image_tokens import DocumentTokens

# Of single pictures; a pair that loses one is dropped as `image missing`.
IMAGE_RULES = {
    "too small": "least(original_width, original_height) < 64",
    "extreme aspect": "aspect > 3",
    "blank": "blank_share > 0.95",
}
# Of pairs, in this order.
PAIR_RULES = {
    "no instruction": "caption IS NULL OR instruction_words < 1",
    "other shape": "NOT same_shape",
    "nothing changed": "change_share < 0.002",
    "all changed": "change_share > 0.75",
    # As in InstructPix2Pix.
    "edit goes elsewhere": "edit_direction < 0.2",
}
ENCODER = "gristmill.model.shard_tokens:ShardTokens"


def edit(**source: Any) -> Dag:
    """Fetch both pictures of each pair, compare them, keep edits that did what was asked, shard.

        gristmill run edit --source pairs.parquet --out runs/edits

    The source is Parquet or JSON lines with two pictures and an instruction, under the names that
    public datasets use, or named with --column. `edit goes elsewhere` needs captions of both
    pictures; pairs without them pass it.
    """
    return Dag(
        name="edit",
        nodes={
            "source": Node(DocumentSource(**{"kind": "pair", **source})),
            "images": Node(DocumentImages(min_images=2, max_images=2), ("source",)),
            "download": Node(Download(), ("images",)),
            "hash": Node(PerceptualHash(), ("download",)),
            "image_facts": Node(ImageFacts(), ("download",)),
            "keep_images": Node(Keep(rules=IMAGE_RULES), ("hash", "image_facts")),
            "pairs": Node(AssembleDocuments(min_images=2, complete=True), ("keep_images",)),
            # Idle until --keep-columns names some.
            "source_columns": Node(SourceColumns(), ("pairs",)),
            "facts": Node(EditFacts(), ("source_columns",)),
            "clip": Node(EditScore(embeddings=False), ("pairs",)),
            "caption_facts": Node(CaptionFacts(), ("pairs",)),
            "keep": Node(
                Keep(rules=PAIR_RULES, missing="keep"), ("facts", "clip", "caption_facts")
            ),
            # Of what was kept only; idle until it is given a codec.
            "tokens": Node(DocumentTokens(encoder=ENCODER), ("keep",)),
            "shards": Node(Shards(media="edit"), ("tokens",)),
        },
        doc=(edit.__doc__ or "").strip().splitlines()[0],
    )
