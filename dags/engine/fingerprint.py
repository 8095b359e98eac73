"""What a node's output depends on, as a digest: same fingerprint, same output, reused.

Semantic fields only (execution fields such as concurrency are left out), the stage's version (of a
stage from outside also its code, with the user's modules that it imports), the versions of the
libraries that decide its bytes, the digests of the files it loads, the fingerprints of its inputs,
the part size, and for a source its manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping, Sequence

from gristmill.dags.dag_yaml import plain
from gristmill.dags.engine.stage_code import code_digest
from gristmill.dags.graph import Dag
from gristmill.errors import ConfigurationError
from gristmill.pipelines import stage_name
from gristmill.pipelines.stage import ManifestEntry, Read, Stage, is_execution, is_later_default


def fingerprints(
    dag: Dag, *, limit: int = 0, manifest: Sequence[ManifestEntry] | None = None
) -> dict[str, str]:
    """64 hex digits for each node. `manifest` is that of the source, read if not given."""
    found: dict[str, str] = {}
    for name in dag.order():
        node = dag.nodes[name]
        of_source: dict[str, object] = {}
        if isinstance(node.stage, Read):
            listing = node.stage.manifest() if manifest is None else manifest
            of_source = {"manifest": listing, "limit": limit, "part_rows": dag.part_rows}
        found[name] = fingerprint(node.stage, [found[other] for other in node.inputs], of_source)
    return found


def fingerprint(stage: Stage, inputs: Sequence[str], of_source: Mapping[str, object]) -> str:
    """64 hex digits of a stage on inputs of these fingerprints."""
    parts = {**stage_identity(stage), "inputs": sorted(inputs), **of_source}
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def stage_identity(stage: Stage) -> dict[str, object]:
    """What distinguishes one configured stage from another."""
    fields = {
        field.name: _ordered(getattr(stage, field.name))
        for field in dataclasses.fields(stage)
        if not (is_execution(field) or is_later_default(stage, field))
    }
    identity = {
        "stage": stage_name(type(stage)),
        "version": stage.version,
        "fields": fields,
        "libraries": {name: _library_version(name) for name in stage.libraries},
        "files": {path: digest_path(path) for path in stage.files()},
    }
    # Stages of ours have none: what they mean is said by `version`.
    if code := code_digest(stage):
        identity["code"] = code
    return identity


def _ordered(value: object) -> object:
    """Mappings as pairs: the order of rules is part of their meaning."""
    if isinstance(value, Mapping):
        return [[str(key), _ordered(item)] for key, item in value.items()]
    return plain(value)


def _library_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def digest_path(path: str) -> str:
    """sha256 of a file, or of all files in a folder with their names."""
    digest = hashlib.sha256()
    if not os.path.exists(path):
        raise ConfigurationError(f"{path} does not exist, but a stage loads it")
    files = [path]
    if os.path.isdir(path):
        files = sorted(
            os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names
        )
    for file in files:
        digest.update(os.path.relpath(file, path).encode())
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
