"""A Dag as YAML and back, without loss: fields that keep their default are left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from gristmill.dags.graph import Dag, Node
from gristmill.dags.settings import build_stage, coerce
from gristmill.errors import GraphError
from gristmill.pipelines import stage_class, stage_name
from gristmill.pipelines.stage import Stage

_INPUTS, _STAGE = "inputs", "stage"


def dump_dag(dag: Dag) -> str:
    """YAML that `load_dag` turns into an equal Dag."""
    nodes = {}
    for name, node in dag.nodes.items():
        entry: dict[str, Any] = {_STAGE: stage_name(type(node.stage))}
        if node.inputs:
            entry[_INPUTS] = list(node.inputs)
        nodes[name] = entry | stage_fields(node.stage)
    document: dict[str, Any] = {"dag": dag.name}
    if dag.part_rows:
        document["part_rows"] = dag.part_rows
    if dag.doc:
        document["doc"] = dag.doc
    if dag.left_out:
        document["left_out"] = list(dag.left_out)
    document["nodes"] = nodes
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def load_dag(text: str, where: str = "the DAG file") -> Dag:
    """The Dag that `text` describes; `GraphError` says what is wrong and where."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise GraphError(f"{where} is not YAML: {error}") from error
    if not isinstance(document, Mapping) or not isinstance(document.get("nodes"), Mapping):
        raise GraphError(f"{where}: expected the keys 'dag' and 'nodes'")
    document = dict(document)
    if "name" in document:
        # What most people write first, and what the field of a Dag is called.
        if "dag" in document:
            raise GraphError(f"{where}: 'dag' and 'name' say the same; leave one out")
        document["dag"] = document.pop("name")
    unknown = set(document) - {"dag", "part_rows", "nodes", "doc", "without", "left_out"}
    if unknown:
        raise GraphError(
            f"{where}: unknown key {sorted(unknown)[0]!r}; known: dag, doc, part_rows, without, "
            "nodes"
        )
    nodes = {}
    for name, entry in document["nodes"].items():
        if not isinstance(entry, Mapping) or _STAGE not in entry:
            raise GraphError(f"{where}: node {name!r} needs a 'stage'")
        cls = stage_class(str(entry[_STAGE]))
        fields = {key: value for key, value in entry.items() if key not in (_STAGE, _INPUTS)}
        inputs = entry.get(_INPUTS, [])
        inputs = (inputs,) if isinstance(inputs, str) else tuple(map(str, inputs))
        nodes[str(name)] = Node(build_stage(cls, fields, str(name)), inputs)
    part_rows = coerce(document.get("part_rows", 0), int, f"{where}: part_rows")
    name, doc = str(document.get("dag", "dag")), str(document.get("doc", ""))
    dag = Dag(name, nodes, part_rows, doc, _texts(document, "left_out", where))
    return dag.without(*_texts(document, "without", where))


def _texts(document: Mapping[str, object], key: str, where: str) -> tuple[str, ...]:
    """A list of texts under a key, or one text; nothing if the key is not there."""
    value = document.get(key) or []
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list):
        raise GraphError(f"{where}: {key} is {value!r}; it must be a list, e.g. [clip]")
    return tuple(map(str, listed))


def stage_fields(stage: Stage) -> dict[str, Any]:
    """Fields that differ from their defaults, as plain YAML values."""
    found = {}
    for field in dataclasses.fields(stage):
        value = getattr(stage, field.name)
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if value != default or type(value) is not type(default):
            found[field.name] = plain(value)
    return found


def plain(value: Any) -> Any:
    """A field value as lists, dicts and scalars."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value
