"""README.md of a dataset on the Hub: our card, with the front matter that the Hub and `datasets`
read, put into what somebody else may have written there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from gristmill.errors import ConfigurationError
from gristmill.pipelines.shards.manifest import Manifest

# Upper ends of the Hub's categories of size, in samples.
_SIZES = (
    (1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M"), (1e7, "1M<n<10M"),
    (1e8, "10M<n<100M"), (1e9, "100M<n<1B"), (1e10, "1B<n<10B"), (1e11, "10B<n<100B"),
    (1e12, "100B<n<1T"),
)  # fmt: skip
# What the samples are for, by what they are of.
_TASKS = {
    "image": ["image-to-text", "text-to-image"],
    "video": ["video-text-to-text", "text-to-video"],
    "frames": ["video-text-to-text", "text-to-video"],
    "document": ["image-text-to-text"],
    "edit": ["image-to-image"],
}
# Licences that the Hub knows by name; any other is `other`, with a name.
_LICENCES = {
    "apache-2.0", "mit", "openrail", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause",
    "bsd-3-clause", "bsd-3-clause-clear", "c-uda", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5",
    "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0",
    "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1",
    "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0",
    "isc", "ms-pl", "mpl-2.0", "odc-by", "odbl", "osl-3.0", "postgresql", "ofl-1.1", "ncsa",
    "unlicense", "zlib", "pddl", "unknown", "other",
}  # fmt: skip
_FRONT = re.compile(r"---[ \t]*\r?\n(?:(.*?)\r?\n)?---[ \t]*(?:\r?\n|$)(.*)", re.DOTALL)


def config_name(path: str) -> str:
    """What `datasets` calls the set that lies at a path of a repository."""
    return re.sub(r"[^\w.-]+", "-", path) or "default"


def front_matter(
    card: Mapping[str, Any], manifest: Manifest, path: str, strangers: Sequence[str] = ()
) -> dict[str, Any]:
    """What the Hub is told of a set; `card` is the front matter of its DATASET_CARD.md.

    `strangers` are files of the repository that lie among the shards and are none of this set:
    where there are some, shards are named one by one instead of by a pattern.
    """
    found: dict[str, Any] = {}
    if licence := str(card.get("license") or ""):
        name = re.sub(r"[^\w.+-]+", "-", licence.strip().lower())
        found |= (
            {"license": name} if name in _LICENCES else {"license": "other", "license_name": name}
        )
    if tasks := _TASKS.get(manifest.get("media", "image")):
        found["task_categories"] = tasks
    samples = sum(s["samples"] for split in manifest["splits"].values() for s in split["shards"])
    found["size_categories"] = [next((name for end, name in _SIZES if samples < end), "n>1T")]
    found["configs"] = [
        {"config_name": config_name(path), "data_files": _data_files(manifest, path, strangers)}
    ]
    return found


def _data_files(manifest: Manifest, path: str, strangers: Sequence[str]) -> list[dict[str, Any]]:
    """Shards of each split that has some: by pattern, or one by one among strangers."""
    ending = ".tar" if manifest["format"] == "webdataset" else ".parquet"
    start = f"{path}/" if path else ""
    found = []
    for split, facts in manifest["splits"].items():
        if not facts["shards"]:
            continue
        folder = f"{start}{split}/"
        among = any(
            s.startswith(folder) and s.endswith(ending) and "/" not in s[len(folder) :]
            for s in strangers
        )
        names = [start + shard["name"] for shard in facts["shards"]]
        where: str | list[str] = names if among else f"{folder}*{ending}"
        found.append({"split": "validation" if split == "val" else split, "path": where})
    return found


def split_card(text: str, where: str) -> tuple[dict[str, Any], str]:
    """Front matter and body of a card. Raises `ConfigurationError` for one that is no YAML."""
    match = _FRONT.match(text)
    if match is None:
        return {}, text
    try:
        found = yaml.safe_load(match[1] or "")
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise ConfigurationError(
            f"{where} has front matter that is no YAML ({said}); mend it there, then publish again"
        ) from error
    return (found if isinstance(found, dict) else {}), match[2]


def readme(there: str | None, where: str, card: str, ours: Mapping[str, Any], path: str) -> str:
    """The README.md of a repository with our card in it, in the place of our card of before.

    What others wrote there stays: text around ours, front matter that we do not set, the configs of
    sets at other paths, tasks that somebody chose. The same again gives the same.
    """
    meta, body = split_card(there or "", where)
    merged = _merged(meta, ours, path)
    begin, end = (f"<!-- gristmill publish {path or '/'}: {mark} -->" for mark in ("begin", "end"))
    own = f"{begin}\n{split_card(card, 'DATASET_CARD.md')[1].strip()}\n{end}"
    before, found, rest = body.partition(begin)
    if found and end in rest:
        body = before + own + rest.partition(end)[2]
    else:
        body = "\n\n".join(text for text in (body.strip(), own) if text) + "\n"
    if there is not None and merged == meta and body == split_card(there, where)[1]:
        return there
    return (
        f"---\n{yaml.safe_dump(merged, sort_keys=False, allow_unicode=True)}---\n\n{body.lstrip()}"
    )


def _merged(meta: Mapping[str, Any], ours: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Theirs, with what we know better."""
    merged = dict(meta)
    known = merged.get("configs")
    configs = [one for one in known if isinstance(one, dict)] if isinstance(known, list) else []
    (own,) = ours["configs"]
    named = [one.get("config_name", "default") for one in configs]
    if own["config_name"] in named:
        at = named.index(own["config_name"])
        configs[at] = {**configs[at], **own}
    else:
        configs.append(own)
    # Of several sets of one repository no one is the whole.
    better = ("license", "license_name", "size_categories") if not path else ()
    for name, value in ours.items():
        if name != "configs" and (name in better or name not in merged):
            merged[name] = value
    if not path and ours.get("license", "other") != "other":
        # They belong to a licence that the Hub does not know.
        for name in ("license_name", "license_link"):
            merged.pop(name, None)
    return {**merged, "configs": configs}
