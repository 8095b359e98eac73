"""What commands that build a Dag are told: the arguments of `run`, `plan` and `submit`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from gristmill.pipelines.key_value import key_value

if TYPE_CHECKING:
    from gristmill.catalogs.catalog import SourceFields
    from gristmill.dags.graph import Dag

Recipe = Annotated[
    str, typer.Argument(help="A recipe (image-text), a .yaml file, or pkg.mod:function.")
]
SourcePath = Annotated[
    str | None,
    typer.Option(
        "--source", help="File, folder, glob or URL; 'coco:captions.json', 'catalog:NAME@PATH'."
    ),
]
Images = Annotated[str | None, typer.Option(help="Folder of the pictures that the source names.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", help="Odd column names: caption=TEXT; repeat for more."),
]
KeepColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--keep-columns",
        help="Columns of the source that rules may name and shards carry: similarity,nsfw, or "
        "OURS=NAME, or NAME:float64; repeat for more.",
    ),
]
Out = Annotated[str, typer.Option(help="Folder of the run, local or any fsspec URL.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="node.field=value; repeat for more.", metavar="X=Y"),
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        "--without", help="Leave out a node, and what stands on it; repeat.", metavar="NODE"
    ),
]
Limit = Annotated[int, typer.Option(help="Take only the first rows of the source; 0: all.")]
Workers = Annotated[int | None, typer.Option(help="Workers for each node at most.")]
RetryFailed = Annotated[bool, typer.Option(help="Try again rows whose failure may heal.")]
AllowEmpty = Annotated[
    bool, typer.Option("--allow-empty", help="Replace shards by none where nothing is kept.")
]
AsJson = Annotated[bool, typer.Option("--json", help="A JSON object an event instead of bars.")]
Metrics = Annotated[
    str, typer.Option(help="Answer Prometheus on PORT, HOST:PORT or :PORT.", metavar="PORT")
]
NoLock = Annotated[
    bool,
    typer.Option(
        "--no-lock", help="On a store without conditional put: keep other writers out yourself."
    ),
]


def make_dag(
    recipe: str,
    source: str | None,
    images: str | None,
    columns: list[str] | None,
    keep_columns: list[str] | None,
    settings: list[str] | None,
    without: list[str] | None,
) -> Dag:
    """The Dag that a command names, with its source and its settings. Nothing of it is read but,
    for columns that are kept and whose type nobody says, the first rows."""
    from gristmill.dags.engine.source_types import with_source_columns
    from gristmill.dags.recipes.evaluations import with_evaluations
    from gristmill.dags.recipes.find import find_dag
    from gristmill.dags.settings import apply_settings

    found = find_dag(recipe, source_fields(source, images, columns))
    if keep_columns:
        # The first rows are read as they will be read.
        of_source = [one for one in settings or [] if one.startswith(f"{found.source}.")]
        node = found.source
        found = found.replace(node, apply_settings(found, of_source).stage(node))
        found = with_source_columns(found, keep_columns)
    with cautions_said():
        dag = with_evaluations(apply_settings(found, settings or []))
    # A node that has nothing to do is out already.
    return dag.without(*(n for n in without or () if n in dag.nodes or n not in found.nodes))


def source_fields(
    source: str | None, images: str | None, columns: list[str] | None
) -> SourceFields:
    """Fields of a source, as a command names them."""
    from gristmill.catalogs.catalog import resolve

    with cautions_said():
        fields: SourceFields = resolve(source) if source is not None else {}
    if images is not None:
        fields["images"] = images
    mapping = {}
    for column in columns or []:
        ours, theirs = key_value(column, "--column", "ours=theirs, e.g. caption=TEXT")
        mapping[ours] = theirs
    if mapping:
        fields["columns"] = {**fields.get("columns", {}), **mapping}
    return fields


@contextmanager
def cautions_said() -> Iterator[None]:
    """What the catalog warns of is a line for a person."""
    from gristmill.catalogs.catalog import CatalogWarning

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", CatalogWarning)
        yield
    for one in found:
        if issubclass(one.category, CatalogWarning):
            print(f"warning: {one.message}", file=sys.stderr)
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
