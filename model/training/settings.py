"""From what a person types to what training takes."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import yaml

from gristmill.errors import ConfigurationError, SampleError, require_known
from gristmill.model.checkpoints.checkpoint import require_training_folder
from gristmill.model.codecs.base import Codec
from gristmill.model.codecs.patches import KMeansCodec
from gristmill.model.codecs.registry import (
    CODECS,
    CodecTraining,
    held_out,
    reconstruct,
    save_codec,
    train_codec,
)
from gristmill.model.data.center_crop import resize_center_crop
from gristmill.model.data.shard_sources import DataSource, open_samples, spread_places
from gristmill.model.distributed.ranks import first_rank_does
from gristmill.model.documents.paradigms import find_paradigm
from gristmill.model.documents.vocabulary import train_text
from gristmill.model.evaluation.frechet import (
    INCEPTION,
    ClipTower,
    frechet_distance,
    require_torchmetrics,
)
from gristmill.model.training.begin_with import codec_of
from gristmill.model.training.filter_network import IMAGE_SIZE, Training, train_filter_network
from gristmill.model.training.made_of import data_digest, remember, serves
from gristmill.model.training.setting_values import read_yaml, typed
from gristmill.model.training.train_config import TrainConfig
from gristmill.model.training.training_setup import caption_texts
from gristmill.pipelines.key_value import key_value
from gristmill.pipelines.out_folder import require_file_place, require_own, require_writable
from gristmill.pipelines.storage import Folder

# Of k-means: fewer patches make a code of their own noise.
_PATCHES_OF_A_CODE = 4


def train_config(
    *,
    size: str,
    data: Sequence[str],
    out: str,
    init: str = "",
    paradigm: str,
    experts: str,
    codec: str,
    encoder: str,
    split: str,
    where: str,
    tasks: str,
    questions: str,
    steps: int,
    rows: int,
    row_length: int,
    patches: int = 0,
    rate: float,
    replicate: int = 1,
    seed: int,
    accept_changed_data: bool = False,
    settings: Sequence[str] = (),
) -> TrainConfig:
    """A training's settings, checked. A codec is that given, that of the model to begin with, or
    that of the run's tokens; see `with_codec`."""
    sources = tuple(
        dataclasses.replace(
            source, split=split, where=where, tasks=parse_tasks(tasks), questions=questions
        )
        for source in map(parse_source, data)
    )
    fields: dict[str, Any] = {
        "out": out, "init": init, "data": sources, "size": size,
        "codec": codec or codec_of(init) or run_field(data, "tokens", "images"),
        "paradigm": paradigm, "experts": experts, "steps": steps, "rows_per_step": rows,
        "row_length": row_length,
        "patches": patches, "rate": rate, "replicate": replicate, "seed": seed,
        "accept_changed_data": accept_changed_data,
    }  # fmt: skip
    wanted = find_paradigm(paradigm)
    if "semantic" in wanted.image_inputs:
        fields["encoder"] = encoder or clip_of_run(data)
    fields |= _parsed(settings)
    config = TrainConfig(**fields)
    config.check()
    return config


def with_codec(config: TrainConfig) -> TrainConfig:
    """The same with a codec that fits the paradigm: if it has none, one is trained first."""
    require_training_folder(config.out)
    codes = find_paradigm(config.paradigm).codes
    return dataclasses.replace(config, codec=_fitting_codec(config, codes))


def _fitting_codec(config: TrainConfig, codes: bool) -> str:
    """The codec given, if it fits; else one trained on the data into the checkpoint's folder."""
    from gristmill.model.codecs.registry import load_codec

    if config.codec and (
        not os.path.exists(config.codec) or load_codec(config.codec).discrete == codes
    ):
        return config.codec
    path = os.path.join(config.out, "trained-codec.safetensors")
    kind = "kmeans" if codes else "raw"
    digest = data_digest(config.data, kind, config.seed)

    def make() -> None:
        if not serves(path, digest):
            urls = [source.url for source in config.data]
            codec_from_shards(kind, urls, seed=config.seed, out=path, split=config.data[0].split)
            remember(path, digest)

    first_rank_does(make)
    return path


def run_field(data: Sequence[str], node: str, field: str) -> str:
    """A field of a node of the run that wrote the first shards, as its dag.yaml says; "" if there
    is no such."""
    url = parse_source(data[0]).url.rstrip("/")
    for place in (url, url.removesuffix("/shards")):
        folder = Folder(place)
        if folder.exists("dag.yaml"):
            nodes = yaml.safe_load(folder.read_bytes("dag.yaml").decode()).get("nodes", {})
            return str(nodes.get(node, {}).get(field) or "")
    return ""


def clip_of_run(data: Sequence[str]) -> str:
    """The CLIP that scored the run, as `load_encoder` names it; "" if it is not said."""
    model, pretrained = run_field(data, "clip", "model"), run_field(data, "clip", "pretrained")
    return model if model.startswith("local-dir:") or not pretrained else f"{model}/{pretrained}"


def parse_source(text: str) -> DataSource:
    """ "FOLDER" or "WEIGHT@FOLDER"."""
    weight, at, url = text.rpartition("@")
    try:
        return DataSource(url=url, weight=float(weight) if at else 1.0)
    except ValueError:
        return DataSource(url=text)


def parse_tasks(text: str) -> dict[str, float]:
    """ "draw=0.5,describe=0.5" as shares."""
    shares = {}
    for part in text.split(","):
        # A task alone has a share of 1.
        name, share = key_value(part if "=" in part else f"{part}=", "--tasks", "task=share")
        try:
            shares[name] = float(share or 1)
        except ValueError:
            raise ConfigurationError(f"--tasks {part!r}: write task=share") from None
    return shares


def _parsed(settings: Sequence[str]) -> dict[str, Any]:
    """name=value pairs as fields of `TrainConfig`, typed by their defaults."""
    known = {field.name: _default(field) for field in dataclasses.fields(TrainConfig)}
    # What is given by options of their own alone.
    del known["out"], known["data"]
    values: dict[str, Any] = {}
    for setting in settings:
        form = f"name=value; names: {', '.join(sorted(known))}"
        name, text = key_value(setting, "--set", form)
        if name not in known:
            raise ConfigurationError(f"--set {setting!r}: write {form}")
        value, kind = _read(setting, text), type(known[name])
        if kind is str and not isinstance(value, str):
            # "007" is a text for a text, whatever YAML makes of it.
            value = text
        if kind in (int, float, str, bool):
            value = typed(value, kind, f"--set {setting}")
        _require_list(setting, known[name], value)
        values[name] = tuple(value) if isinstance(value, list) else value
    return values


def _read(setting: str, text: str) -> Any:
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--set {setting}: {error}") from None


def _default(field: dataclasses.Field[Any]) -> object:
    made = field.default_factory
    value = field.default if made is dataclasses.MISSING else made()
    # A field that must be given is a text.
    return "" if value is dataclasses.MISSING else value


def _require_list(setting: str, default: object, value: object) -> None:
    """One value for a field that holds several is more often a slip than a list of one."""
    name, _, text = setting.partition("=")
    if isinstance(default, dict) and not isinstance(value, dict):
        raise ConfigurationError(f"--set {setting}: write {name}={{NAME: VALUE}}")
    if isinstance(default, tuple) and not isinstance(value, list):
        raise ConfigurationError(f"--set {setting}: {name} is a list, e.g. {name}=[{text}]")


def codec_from_shards(
    kind: str,
    data: Sequence[str],
    *,
    out: str,
    side: int | None = None,
    patch: int | None = None,
    pictures: int = 4000,
    steps: int = 500,
    seed: int = 0,
    split: str = "train",
    settings: Sequence[str] = (),
    fid: str = "",
) -> Codec:
    """Train a codec on pictures spread over shards, and write it. Without `side` and `patch` they
    are those of its kind. `fid`: "inception" or a CLIP, see `frechet`; its ceiling then has the
    Fréchet distance of reconstructed to real held-out pictures ("rfid")."""
    require_known("codec", kind, CODECS)
    require_file_place(out)
    if fid:
        require_torchmetrics()
    given = {"side": side, "patch": patch}
    fields: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    defaults = inspect.signature(CODECS[kind]).parameters
    for setting in settings:
        name, text = key_value(setting, "--set", "name=value")
        value = _read(setting, text)
        if name in defaults:
            _require_list(setting, defaults[name].default, value)
        fields[name] = tuple(value) if isinstance(value, list) else value
    try:
        codec = CODECS[kind](**fields)
    except TypeError as error:
        raise ConfigurationError(f"codec {kind}: {error}") from None
    views = picture_views(data, side=codec.side, count=pictures, split=split)
    if isinstance(codec, KMeansCodec) and "sizes" not in fields:
        codec = _bounded(codec, len(views), fields)
    train_codec(codec, views, CodecTraining(steps=steps, seed=seed))
    if fid and codec.decodes:
        test = views[: held_out(views)]
        tower = None if fid == INCEPTION else ClipTower.load(fid)
        found = frechet_distance(list(test.numpy()), list(reconstruct(codec, test).numpy()), tower)
        codec.ceiling |= {"rfid": float(f"{found:.6g}"), "rfid_pictures": len(test)}
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    save_codec(codec, out)
    return codec


def _bounded(codec: KMeansCodec, pictures: int, fields: dict[str, Any]) -> KMeansCodec:
    """The codec with no more codes than a few pictures can tell apart; says so if that is fewer
    than usual."""
    patches = pictures * codec.grid[0] * codec.grid[1]
    # A power of two, of which each code is the mean of some patches at least.
    most = max(16, 2 ** int(math.log2(max(1.0, patches / _PATCHES_OF_A_CODE))))
    if most >= max(codec.sizes):
        return codec
    sizes = tuple(min(size, most) for size in codec.sizes)
    print(
        f"{pictures:,} pictures have {patches:,} patches: a codec of {sizes[0]:,} codes is made of "
        f"them, not of {codec.sizes[0]:,}; with more pictures it draws better",
        file=sys.stderr,
    )
    return KMeansCodec(**{**fields, "sizes": sizes})


def picture_views(
    data: Sequence[str], *, side: int, count: int, split: str = "train"
) -> torch.Tensor:
    """uint8 [n, side, side, 3]: at most `count` pictures, evenly spread over shard sets."""
    views = []
    each = max(1, count // len(data))
    for text in data:
        samples = open_samples(dataclasses.replace(parse_source(text), split=split))
        for shard, row in spread_places(samples, each):
            try:
                views.append(resize_center_crop(samples.picture(shard, row), side))
            except SampleError:
                continue
    if not views:
        raise ConfigurationError(f"no picture of {', '.join(data)} can be decoded")
    return torch.from_numpy(np.stack(views))


def tokenizer_from_shards(data: Sequence[str], *, size: int, questions: str, out: str) -> int:
    """Train a BPE on captions (and questions made of them), write it, and return its entries."""
    from tokenizers import Tokenizer

    require_file_place(out)
    sources = [dataclasses.replace(parse_source(text), questions=questions) for text in data]
    text = train_text(caption_texts(sources), size)
    with open(out + ".partial", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(out + ".partial", out)
    return int(Tokenizer.from_str(text).get_vocab_size())


def filter_from_shards(
    data: str, out: str, *, pairs: int, where: str, steps: int, batch_size: int, seed: int
) -> Training:
    """Train a filter network on pairs spread evenly over a shard set."""
    require_own(out, what="filter network", marks=("filter_network.json",), beside=())
    require_writable(out, what="filter network")
    source = dataclasses.replace(parse_source(data), where=where)
    samples = open_samples(source)
    images, captions = [], []
    for shard, row in spread_places(samples, pairs, where):
        caption = samples.table(shard)["caption"][row].as_py()
        try:
            # Small at once: the network sees no more, and thousands must be held.
            picture = resize_center_crop(samples.picture(shard, row), IMAGE_SIZE)
        except SampleError:
            continue
        if caption:
            images.append(picture)
            captions.append(caption)
    return train_filter_network(
        images, captions, out, steps=steps, batch_size=batch_size, seed=seed
    )
