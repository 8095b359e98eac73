"""Shards are not replaced by nothing unless somebody says so."""

from __future__ import annotations

from gristmill.dags.engine.ledger import count_nodes, kept_rows
from gristmill.dags.engine.run_folder import RunLayout
from gristmill.dags.engine.summary import product_counts
from gristmill.errors import NothingKeptError
from gristmill.pipelines.sealed import find_sealed


def refuse_nothing(layout: RunLayout, node: str, parts: int) -> None:
    """Raise `NothingKeptError` if no row is left for a product that holds samples."""
    product = layout.folder.sub(node)
    if find_sealed(product, "manifest.json") is None:
        # None, or one that says nothing any more.
        return
    samples = sum(product_counts(product)["samples"].values())
    if samples and not kept_rows(layout.dag, count_nodes(layout, parts)):
        raise NothingKeptError(
            f"no row is kept: the {samples:,} samples in {product.url} would be replaced by "
            "nothing, and stay as they are; `gristmill keep` tries other rules, and "
            "--allow-empty replaces them"
        )
