"""Shapes and types at the model's borders are checked in tests, and only there."""

from __future__ import annotations

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# Where an int is taken for a float, as everywhere in Python.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

MODULES = (
    "gristmill.model.documents.batch",
    "gristmill.model.codecs",
    "gristmill.model.network.rotary",
    "gristmill.model.sampling.samplers",
    "gristmill.model.sampling.decoding",
    "gristmill.model.network.transformer",
)


def check_shapes() -> None:
    """From now on these modules are imported with checks."""
    install_import_hook(list(MODULES), "shape_checker.checked")
