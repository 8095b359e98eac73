"""In which order nodes run: chains that stream part by part, and barriers that need all parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.graph import Dag
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.stage import Map, Score


@dataclass(frozen=True)
class Chain:
    """Groups of nodes through which parts stream; the nodes of a group share one operator."""

    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Barrier:
    """A node that needs all parts of what is above it."""

    node: str


def schedule(dag: Dag) -> Iterator[Chain | Barrier]:
    """Steps after the source has been cut into parts."""
    done = {dag.source}
    while len(done) < len(dag.nodes):
        groups = _chain(dag, done)
        if groups:
            yield Chain(tuple(groups))
            done |= {node for group in groups for node in group}
            continue
        node = next(n for n in dag.order() if n not in done and set(dag.nodes[n].inputs) <= done)
        yield Barrier(node)
        done.add(node)


def _chain(dag: Dag, done: set[str]) -> list[tuple[str, ...]]:
    """Map nodes and groups of Score nodes that can follow one another without a barrier."""
    groups: list[tuple[str, ...]] = []
    reached = set(done)
    while True:
        ready = [
            name
            for name in dag.order()
            if name not in reached
            and set(dag.nodes[name].inputs) <= reached
            and isinstance(dag.stage(name), (Map, Score))
        ]
        if not ready:
            return groups
        scores = [name for name in ready if isinstance(dag.stage(name), Score)]
        if scores:
            above = dag.upstream(scores[0])
            group = tuple(name for name in scores if dag.upstream(name) == above)
        else:
            group = (ready[0],)
        groups.append(group)
        reached |= set(group)


def parts_left(layout: RunLayout, nodes: Sequence[str], parts: Sequence[int]) -> list[int]:
    """Parts that some of these nodes, in order, does not have, built on what is there now."""
    left: set[int] = set()
    for node in nodes:
        records = layout.store(node).records()
        left |= {part for part in parts if part not in records}
        there = [part for part in parts if part not in left]
        said = {other: layout.digests(other, there) for other in layout.dag.node(node).inputs}
        for part in there:
            if records[part].inputs != {other: digests[part] for other, digests in said.items()}:
                left.add(part)
    return sorted(left)


def state_digest(layout: RunLayout, node: str, parts: int) -> str:
    """Digest of everything a barrier node builds on: the records of its inputs, part by part."""
    digest = hashlib.sha256(str(parts).encode())
    for other in layout.dag.node(node).inputs:
        for part, said in layout.digests(other, range(parts)).items():
            digest.update(f"{other}:{part}:{said};".encode())
    return digest.hexdigest()


def kept_digest(layout: RunLayout, parts: int) -> str:
    """Digest of what every Keep node says of the first parts: what is kept of earlier lists."""
    digest = hashlib.sha256()
    for node in layout.dag.order():
        if isinstance(layout.dag.stage(node), Keep):
            for part, said in layout.digests(node, range(parts)).items():
                digest.update(f"{node}:{part}:{said};".encode())
    return digest.hexdigest()
