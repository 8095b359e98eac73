"""The recipe of conversations about pictures: from instruction sets to shards, each a sample."""

from __future__ import annotations

from typing import Any

from gristmill.dags.graph import Dag, Node
from gristmill.pipelines.captions.caption_language import CaptionLanguage
from gristmill.pipelines.documents.assemble_documents import AssembleDocuments
from gristmill.pipelines.documents.document_images import DocumentImages
from gristmill.pipelines.documents.messages import Messages
from gristmill.pipelines.download.images import Download
from gristmill.pipelines.images.image_facts import ImageFacts
from gristmill.pipelines.images.perceptual_hash import PerceptualHash
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.shards.shards import Shards
from gristmill.pipelines.sources.documents import DocumentSource
from gristmill.pipelines.sources.source_columns import SourceColumns
from gristmill.pipelines.tokens.multi_image_tokens import DocumentTokens

# Of single pictures; a conversation that loses one is dropped as `image missing`. Charts are wide
# and nearly blank, and the same picture is asked about many times.
IMAGE_RULES = {
    "too small": "least(original_width, original_height) < 16",
    "blank": "blank_share = 1",
}
# Of conversations.
RULES = {"hardly answered": "answer_chars < 1"}
ENCODER = "gristmill.model.shard_tokens:ShardTokens"


def conversations(**source: Any) -> Dag:
    """Fetch the pictures that conversations are about, keep the whole ones, shard.

        gristmill run conversations --source llava.json --images pictures/ --out runs/instructions

    The source is JSON, JSON lines or Parquet in the shapes of LLaVA, ShareGPT, OpenAI, FineVision
    or The Cauldron, or with a question and an answer; pictures are embedded, names of files, or
    URLs. Shards have the turns as `messages`, and `gristmill train --tasks chat=1` learns the
    answers. Conversations of text alone need no shards: the trainer reads their list itself.
    """
    return Dag(
        name="conversations",
        nodes={
            "source": Node(DocumentSource(**{"kind": "conversation", **source})),
            "images": Node(DocumentImages(), ("source",)),
            "download": Node(Download(), ("images",)),
            "hash": Node(PerceptualHash(), ("download",)),
            "image_facts": Node(ImageFacts(), ("download",)),
            "keep_images": Node(Keep(rules=IMAGE_RULES), ("hash", "image_facts")),
            "documents": Node(AssembleDocuments(complete=True), ("keep_images",)),
            # Idle until --keep-columns names some.
            "source_columns": Node(SourceColumns(), ("documents",)),
            "messages": Node(Messages(), ("source_columns",)),
            "language": Node(CaptionLanguage(), ("documents",)),
            "keep": Node(Keep(rules=RULES), ("messages", "language")),
            # Of what was kept only; idle until it is given a codec.
            "tokens": Node(DocumentTokens(encoder=ENCODER), ("keep",)),
            "shards": Node(Shards(media="document"), ("tokens",)),
        },
        doc=(conversations.__doc__ or "").strip().splitlines()[0],
    )
