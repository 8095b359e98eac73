"""What a training is made of beside weights: vocabulary, paradigm, codec, encoder, data."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from gristmill.errors import ConfigurationError
from gristmill.model.checkpoints.checkpoint import CODEC_FILE, FORMAT
from gristmill.model.checkpoints.facts import ModelFacts
from gristmill.model.checkpoints.model_bundle import ModelBundle
from gristmill.model.codecs.base import Codec, balancing_weights
from gristmill.model.codecs.registry import load_codec
from gristmill.model.data.codes_met import codes_never_met
from gristmill.model.data.first_rows import first_rows
from gristmill.model.data.image_tokenizer import ImageTokenizer
from gristmill.model.data.planner import Planner, StreamConfig
from gristmill.model.data.shard_sources import DataSource, open_samples
from gristmill.model.distributed.ranks import first_rank_does, world_size
from gristmill.model.documents.document_writer import DocumentLayout, DocumentWriter
from gristmill.model.documents.paradigms import find_paradigm
from gristmill.model.documents.tasks import GuidanceDropout, Questions, find_questions
from gristmill.model.documents.vocabulary import Vocabulary, check_text, train_text
from gristmill.model.encoders.load import LoadedEncoder, load_encoder
from gristmill.model.network.configurations import (
    describe,
    find_size,
    flops_per_token,
    for_paradigm,
)
from gristmill.model.network.model_config import ModelConfig
from gristmill.model.training.facts import TrainingSummary
from gristmill.model.training.made_of import data_digest, remember, serves
from gristmill.model.training.train_config import SAME, TrainConfig

# Captions that the text vocabulary is trained on, at most.
_CAPTIONS = 1_000_000


@dataclass(frozen=True)
class TrainingSetup(ModelBundle):
    """What training needs beside weights."""

    planner: Planner
    titles: list[str]
    encoder_weights: dict[str, Tensor] | None
    codec_path: str

    def describe(self, config: TrainConfig) -> TrainingSummary:
        """Facts for the log's first line."""
        ceiling = ", ".join(f"{name} {value:.4g}" for name, value in self.codec.ceiling.items())
        summary = (
            f"{config.size} {config.paradigm} {describe(self.model_config, config.row_length)}; "
            f"{self.planner.size:,} samples; {self.codec.kind} codec, ceiling {ceiling}; "
            f"{self._codes_never_met()}{first_rows(self.planner)}"
        )
        return {
            "summary": summary,
            "flops_per_token": flops_per_token(self.model_config, config.row_length),
            "peak_flops": config.peak_flops * world_size(),
        }

    def _codes_never_met(self) -> str:
        """What the data never teaches of the codec."""
        shares = codes_never_met(self.planner)
        if not shares:
            return ""
        said = ", ".join(f"{share:.1%}" for share in shares)
        return f"codes never met {said} of those of the codec's own pictures; "

    def write_files(self, folder: str) -> None:
        """Put the codec beside the weights."""
        os.makedirs(folder, exist_ok=True)
        target = os.path.join(folder, CODEC_FILE)
        if os.path.abspath(self.codec_path) != os.path.abspath(target):
            shutil.copyfile(self.codec_path, target + ".partial")
            os.replace(target + ".partial", target)

    def to_dict(self, config: TrainConfig, step: int) -> ModelFacts:
        """What `unified.load` reads, as plain values."""
        return {
            "format": FORMAT,
            "step": step,
            "model": asdict(self.model_config),
            "paradigm": self.paradigm.name,
            "layout": asdict(self.layout),
            "vocabulary": self.vocabulary.to_dict(),
            "codec_digest": self.codec.digest,
            "training": config.to_dict(),
        }


def make_setup(config: TrainConfig) -> TrainingSetup:
    """Open everything that a training needs. Raises before any work if something is missing."""
    paradigm = find_paradigm(config.paradigm)
    codec = load_codec(config.codec)
    loaded = _encoder(config) if "semantic" in paradigm.image_inputs else None
    encoder = loaded.config if loaded else None
    patches = config.patches or codec.grid[0] * codec.grid[1]
    image_tokenizer = ImageTokenizer(paradigm, codec, encoder, patches, config.cache_mb)
    layout = DocumentLayout(
        patches=patches,
        latents_per_query=config.latents_per_query,
        picture_positions=config.picture_positions,
        latent_channels=codec.channels,
        semantic_width=encoder.width if encoder else 0,
        semantic_patch=encoder.patch if encoder else 0,
        text_block=config.text_block,
        time_mean=config.time_mean,
        time_shift=config.time_shift,
        text_weight=config.text_weight,
        code_balance=config.code_balance,
    )
    layout.check(paradigm)
    queries = layout.queries(patches) if paradigm.image_objective == "query" else 0
    vocabulary, size = _vocabulary_and_size(config, codec, queries)
    model_config = for_paradigm(size, paradigm, latent_channels=codec.channels, vision=encoder)
    stream = StreamConfig(
        rows_per_step=config.rows_per_step,
        row_length=config.row_length,
        seed=config.seed,
        dropout=GuidanceDropout(text=config.guidance_dropout, pictures=config.picture_dropout),
        captions=config.captions,
    )
    weights = balancing_weights(codec, layout.code_balance).numpy()
    writer = DocumentWriter(vocabulary, paradigm, layout, weights)
    planner = Planner(config.data, writer, stream, image_tokenizer)
    titles = [source.title for source in config.data]
    return TrainingSetup(
        model_config, vocabulary, paradigm, layout, codec, encoder, image_tokenizer, planner,
        titles, loaded.weights if loaded else None, config.codec,
    )  # fmt: skip


def _vocabulary_and_size(
    config: TrainConfig, codec: Codec, queries: int
) -> tuple[Vocabulary, ModelConfig]:
    """Those that are asked for; with `init` its text and, where the size is `same`, its shape."""
    if not config.init:
        vocabulary = Vocabulary(_text(config), codec.vocabularies, queries)
        return vocabulary, find_size(config.size)(vocabulary.size, experts=config.experts)
    from gristmill.model.checkpoints.model_folder import read_model_facts
    from gristmill.model.training.begin_with import config_of

    begun = read_model_facts(config.init)
    stood = str(begun["layout"].get("picture_positions", "grid"))
    if (
        begun["paradigm"] == config.paradigm
        and begun["codec_digest"]
        and (stood != config.picture_positions)
    ):
        raise ConfigurationError(
            f"{config.init} learnt its pictures with picture_positions={stood}, and would have to "
            f"learn them anew: give --set picture_positions={stood}"
        )
    old = Vocabulary.from_facts(begun["vocabulary"])
    text = _text(config) if config.tokenizer else begun["vocabulary"]["text"]
    vocabulary = Vocabulary(text, codec.vocabularies, queries, old.pretrained)
    if config.size == SAME:
        shape = config_of(begun, config.experts)
        return vocabulary, dataclasses.replace(shape, vocabulary=vocabulary.size)
    return vocabulary, find_size(config.size)(vocabulary.size, experts=config.experts)


def _encoder(config: TrainConfig) -> LoadedEncoder:
    """The tower that a paradigm sees through."""
    if not config.encoder:
        raise ConfigurationError(
            f"paradigm {config.paradigm} sees through a semantic encoder; give --encoder "
            "MODEL/PRETRAINED or local-dir:FOLDER"
        )
    loaded = load_encoder(config.encoder)
    if config.train_encoder and loaded.config.whole:
        raise ConfigurationError(
            f"encoder {config.encoder!r} is no plain vision transformer, and stays as it is: leave "
            "out train_encoder, or choose a ViT"
        )
    return loaded


def _text(config: TrainConfig) -> str:
    """The text vocabulary: the file given, the one this training made before, or a new one."""
    if config.tokenizer:
        try:
            with open(config.tokenizer, encoding="utf-8") as file:
                return check_text(file.read(), config.tokenizer)
        except OSError as error:
            raise ConfigurationError(f"tokenizer {config.tokenizer}: {error}") from error
    path = os.path.join(config.out, "tokenizer.json")
    digest = data_digest(config.data, config.text_vocabulary)

    def make() -> None:
        if serves(path, digest):
            return
        text = train_text(caption_texts(config.data), config.text_vocabulary)
        os.makedirs(config.out, exist_ok=True)
        with open(path + ".partial", "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(path + ".partial", path)
        remember(path, digest)

    first_rank_does(make)
    with open(path, encoding="utf-8") as file:
        return check_text(file.read(), path)


def caption_texts(sources: Sequence[DataSource]) -> list[str]:
    """Captions of all sources, less those of what is forgotten, questions made of them, and what is
    said in conversations; at most a million.

    Raises `ConfigurationError` if there are none.
    """
    texts: list[str] = []
    for source in sources:
        samples = open_samples(source)
        questions = find_questions(source.questions)
        for shard in range(len(samples.counts())):
            table = samples.table(shard)
            if samples.forgotten:
                gone = pa.array([uid in samples.forgotten for uid in table["uid"].to_pylist()])
                table = table.filter(pc.invert(gone))
            texts += _texts_of(table, questions)
            if len(texts) > _CAPTIONS:
                return texts[:_CAPTIONS]
    if not texts:
        raise ConfigurationError(
            "no captions to train a text vocabulary on: "
            + ", ".join(source.url for source in sources)
            + "; give shards with captions, or --tokenizer FILE"
        )
    return texts


def _texts_of(table: pa.Table, questions: Questions | None) -> Iterator[str]:
    """What is said in conversations; of other samples the captions, and questions made of them."""
    nothing = [None] * len(table)
    captions, conversations = (
        table[name].to_pylist() if name in table.column_names else nothing
        for name in ("caption", "messages")
    )
    for caption, turns in zip(captions, conversations, strict=True):
        if turns:
            yield from (turn["text"] for turn in turns if turn["text"])
        elif caption:
            yield caption
            for pair in questions(caption) if questions else ():
                yield from pair
