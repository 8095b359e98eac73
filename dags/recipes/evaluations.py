"""Benchmarks of the catalog as evaluation sets, for `decontaminate.sources=catalog:NAME@PATH`."""

from __future__ import annotations

import dataclasses

from gristmill.catalogs.catalog import load, resolve
from gristmill.dags.graph import Dag
from gristmill.pipelines.dedup.decontaminate import Decontaminate
from gristmill.pipelines.sources.source import Source

# What has no pictures that could be compared: prompts, and captions of videos.
_TEXTS = ("text", "video-text")


def with_evaluations(dag: Dag) -> Dag:
    """`dag` with each evaluation set of the catalog as its path, its columns, and with those of
    prompts alone among prompts. Raises `ConfigurationError` for one without a path."""
    for name, node in dag.nodes.items():
        if isinstance(node.stage, Decontaminate):
            dag = dag.replace(name, _resolved(node.stage))
    return dag


def evaluation_source(source: str) -> Source:
    """How a benchmark of the catalog is read: with its pictures, or as texts alone."""
    fields = resolve(source, measured=True)
    kind = "text" if load(fields["name"]).modality in _TEXTS else "image"
    return Source(**fields, kind=kind)


def _resolved(stage: Decontaminate) -> Decontaminate:
    sources: list[str] = []
    prompts: list[str] = []
    columns = dict(stage.columns_of)
    named = [(source, sources) for source in stage.sources]
    named += [(source, prompts) for source in stage.prompts]
    for source, kept in named:
        fields = resolve(source, measured=True)
        path = fields["path"]
        if source.startswith("catalog:"):
            entry = load(fields["name"])
            kept = prompts if entry.modality in _TEXTS else kept
            if fields["format"] != "auto":
                path = f"{fields['format']}:{path}"
            if fields["columns"]:
                columns[path] = fields["columns"]
        kept.append(path)
    return dataclasses.replace(
        stage, sources=tuple(sources), prompts=tuple(prompts), columns_of=columns
    )
