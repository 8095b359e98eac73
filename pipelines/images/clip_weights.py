"""Configurations and weights of open_clip's models: whether they are to be had, told at once.

No model is loaded. A hub that does not answer is asked once, briefly, instead of again and again.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TypedDict, cast

from gristmill.errors import ConfigurationError, MissingWeightsError

LOCAL, HUB = "local-dir:", "hf-hub:"
# Seconds that a hub has to answer at all.
ANSWER_S = 5.0
_ENDINGS = (".safetensors", ".bin", ".pth", ".pt")


class ModelConfig(TypedDict):
    """The part of open_clip's configuration that we read."""

    embed_dim: int


class _Published(TypedDict, total=False):
    """Where open_clip has published weights from: "org/name/[file]" of a hub, or a URL."""

    hf_hub: str
    url: str


@functools.lru_cache(maxsize=16)
def model_config(model: str) -> ModelConfig:
    """open_clip's configuration of a model, without importing open_clip or torch."""
    if model.startswith(HUB):
        return _hub_config(model.removeprefix(HUB))
    if model.startswith(LOCAL):
        path = os.path.join(model.removeprefix(LOCAL), "open_clip_config.json")
        if not os.path.exists(path):
            raise MissingWeightsError(f"{path} does not exist; is the folder of {model} right?")
        return cast(ModelConfig, _read_json(path)["model_cfg"])
    if model.endswith(".json"):
        if not os.path.exists(model):
            raise MissingWeightsError(f"{model} does not exist; give another configuration")
        return cast(ModelConfig, _read_json(model))
    folder = _config_folder()
    name = model.replace("/", "-")
    path = os.path.join(folder, f"{name}.json")
    if not os.path.exists(path):
        known = [file.removesuffix(".json") for file in os.listdir(folder)]
        near = difflib.get_close_matches(name, known, n=3)
        raise ConfigurationError(
            f"open_clip has no model {model!r}; near: "
            f"{', '.join(near) or 'see open_clip.list_models()'}"
        )
    return cast(ModelConfig, _read_json(path))


def is_file(pretrained: str) -> bool:
    """Whether weights are named by a path rather than by a tag."""
    return pretrained.endswith(_ENDINGS) or os.sep in pretrained


def require_files(model: str, pretrained: str) -> None:
    """Raise `MissingWeightsError` unless files that are named lie on this machine."""
    if model.startswith(LOCAL):
        folder = model.removeprefix(LOCAL)
        if not any(name.endswith(_ENDINGS) for name in os.listdir(folder)):
            raise MissingWeightsError(f"{folder} holds no weights; is the folder of {model} right?")
    elif not model.startswith(HUB) and is_file(pretrained) and not os.path.exists(pretrained):
        raise MissingWeightsError(f"{pretrained} does not exist; give another path", "pretrained")


def describe_weights(model: str, pretrained: str) -> tuple[str, ...]:
    """Weights that lie in no file that is named, and whether this machine has them already.

    Raises `ConfigurationError` for a tag that open_clip does not know.
    """
    if model.startswith(LOCAL) or (not model.startswith(HUB) and is_file(pretrained)):
        return ()
    if model.startswith(HUB):
        name, here = model, _cached_on_hub(model.removeprefix(HUB), "") is not None
    else:
        published = _published(model, pretrained)
        name = f"{model} {pretrained}"
        here = _cached(published) is not None
    where = "in the cache here" if here else "not in the cache here, to be downloaded"
    return (f"weights {name} ({where})",)


def require_weights(model: str, pretrained: str) -> None:
    """Raise `MissingWeightsError` unless the weights lie here or can be downloaded now."""
    model_config(model)
    require_files(model, pretrained)
    if model.startswith(LOCAL) or (not model.startswith(HUB) and is_file(pretrained)):
        return
    if model.startswith(HUB):
        name = model.removeprefix(HUB)
        if _cached_on_hub(name, "") is None:
            _require_hub(f"the weights of {model}")
            _download({"hf_hub": f"{name}/"}, model)
        return
    published = _published(model, pretrained)
    if _cached(published) is None:
        what = f"the weights {pretrained!r} of {model}"
        if "hf_hub" in published:
            _require_hub(what)
        else:
            _require_answer(published["url"], what)
        _download(published, what)


def _published(model: str, tag: str) -> _Published:
    import open_clip

    tags: Sequence[str] = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigurationError(
            f"{model} has no weights {tag!r}; {hint}there are: {', '.join(tags) or 'none'}"
        )
    return cast(_Published, open_clip.get_pretrained_cfg(model, tag))


def _cached(published: _Published) -> str | None:
    """The file in a cache of this machine, if it is there."""
    if "hf_hub" in published:
        repository, _, file = published["hf_hub"].rpartition("/")
        return _cached_on_hub(repository, file)
    path = os.path.expanduser(f"~/.cache/clip/{os.path.basename(published['url'])}")
    return path if os.path.isfile(path) else None


def _cached_on_hub(repository: str, file: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    if file.endswith((".bin", ".pth")):
        names.insert(0, file[:-4] + ".safetensors")
    for name in names:
        found = try_to_load_from_cache(repository, name)
        if isinstance(found, str):
            return found
    return None


def _require_hub(what: str) -> None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _missing(what, "HF_HUB_OFFLINE forbids to download them")
    _require_answer(constants.ENDPOINT, what)


def _require_answer(url: str, what: str) -> None:
    """One question, through whatever proxy the environment names; any answer will do."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=ANSWER_S).close()
    except urllib.error.HTTPError:
        return
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise _missing(what, f"{url} does not answer ({reason})") from None


def _download(published: _Published, what: str) -> None:
    import open_clip

    try:
        open_clip.download_pretrained(published)
    except Exception as error:
        raise _missing(what, f"cannot be downloaded ({type(error).__name__}: {error})") from error


def _missing(what: str, why: str) -> MissingWeightsError:
    return MissingWeightsError(
        f"{what} are not in the cache of this machine, and {why}; download them where there is a "
        "network, and give the file as pretrained=PATH",
        "pretrained",
    )


@functools.lru_cache(maxsize=16)
def _hub_config(name: str) -> ModelConfig:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    file = "open_clip_config.json"
    remedy = "; download it where there is a network, and give its folder as model=local-dir:PATH"
    found = try_to_load_from_cache(name, file)
    if not isinstance(found, str):
        try:
            _require_hub(f"hf-hub:{name}")
            found = hf_hub_download(name, file)
        except MissingWeightsError as error:
            raise MissingWeightsError(str(error).partition("; ")[0] + remedy) from None
        except Exception as error:
            said = f"hf-hub:{name} cannot be had ({type(error).__name__}: {error})"
            raise MissingWeightsError(said + remedy) from error
    return cast(ModelConfig, _read_json(found)["model_cfg"])


def _config_folder() -> str:
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ConfigurationError("open_clip is not installed; pip install open_clip_torch")
    return os.path.join(package.submodule_search_locations[0], "model_configs")


def _read_json(path: str) -> Mapping[str, object]:
    with open(path, encoding="utf-8") as file:
        return cast(Mapping[str, object], json.load(file))
