"""Whether the nodes of a cluster reach what a Dag names: a folder of this machine they do not."""

from __future__ import annotations

import os

from gristmill.dags.graph import Dag
from gristmill.errors import ConfigurationError
from gristmill.pipelines.sources.formats import FORMATS
from gristmill.pipelines.stage import Read


def require_reach(dag: Dag, out: str) -> list[str]:
    """Warnings about paths that must lie on a file system which all nodes share, one line each.

    Raises `ConfigurationError` for one that means something on this machine alone: a relative one.
    """
    warnings = []
    for what, path in [("--out", out), *_of_source(dag)]:
        place = _on_disk(path)
        if place is None:
            continue
        if not os.path.isabs(place):
            raise ConfigurationError(
                f"{what} {path!r} lies on this machine, which no node of the cluster reaches: give "
                "a URL of an object store, or the absolute path of a file system that all share"
            )
        warnings.append(f"{what} {path} must lie on a file system that every node shares")
    for name, node in dag.nodes.items():
        warnings += [
            f"{name} loads {path}, which does not travel: have it at that place on every node"
            for path in node.stage.files()
        ]
    return warnings


def _of_source(dag: Dag) -> list[tuple[str, str]]:
    """What the Read stages of a Dag are pointed at, each with the option that does so."""
    found = []
    for node in dag.nodes.values():
        if isinstance(node.stage, Read):
            for option, field in (("--source", "path"), ("--images", "images")):
                path = getattr(node.stage, field, "")
                if isinstance(path, str):
                    found += [(option, one.strip()) for one in path.split(",") if one.strip()]
    return found


def _on_disk(path: str) -> str | None:
    """The path on a disk that a path or URL stands for; None of one that leads elsewhere."""
    # A format may stand before a path, as in coco:captions.json.
    prefix, colon, rest = path.partition(":")
    if colon and prefix in FORMATS and not rest.startswith("//"):
        path = rest
    # Where fsspec chains file systems, the bytes lie in the last.
    protocol, colon, place = path.rpartition("::")[2].partition("://")
    if not colon:
        return path
    return place if protocol in ("file", "local") else None
