"""Rules before they are asked: ranges, columns that are not there, names."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from gristmill.errors import GraphError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.rules import columns_in, range_warnings, try_rules
from gristmill.pipelines.schema import ColumnFacts

FACTS = {
    "brightness": ColumnFacts("Mean grey level.", low=0, high=1),
    "width": ColumnFacts("Width.", "pixels", low=1),
}


@pytest.mark.parametrize(
    ("rule", "warning"),
    [
        ("brightness < 20", "brightness is 0..1; the rule compares it with 20"),
        ("20 > brightness", "brightness is 0..1; the rule compares it with 20"),
        ("width > 9 AND NOT (brightness > -0.5)", "brightness is 0..1; .* with -0.5"),
        ("brightness BETWEEN 0 AND 255", "brightness is 0..1; .* with 255"),
        ("width < 0", r"width is at least 1 \(pixels\); the rule compares it with 0"),
    ],
)
def test_a_comparison_beyond_the_range(rule: str, warning: str) -> None:
    assert re.fullmatch(warning, range_warnings({"r": rule}, FACTS)["r"])


@pytest.mark.parametrize(
    "rule",
    [
        "brightness < 0.2",
        "brightness * 255 < 20",
        "255 * brightness < 20",
        "brightness = 1 OR brightness = 0",
        "caption = 'brightness < 20'",
        "brightness < quantile(brightness, 0.5)",
        "unknown < 20",
        "width > 100000",
        "brightness <",
    ],
)
def test_no_warning_where_the_comparison_can_go_either_way(rule: str) -> None:
    assert range_warnings({"r": rule}, FACTS) == {}


def test_a_misspelt_column_is_named_with_the_nearest() -> None:
    schema = pa.schema([("uid", pa.string()), ("brightness", pa.float32())])
    stage = Keep(rules={"too dark": "brightnes < 0.1"})
    with pytest.raises(GraphError, match=r"'brightnes', .*did you mean 'brightness'"):
        stage.resolve_columns(schema)


def test_a_column_like_no_other_is_answered_with_all() -> None:
    schema = pa.schema([("uid", pa.string()), ("brightness", pa.float32())])
    with pytest.raises(GraphError, match="does not enter the node; there are: brightness, uid"):
        Keep(rules={"odd": "zzz < 0.1"}).resolve_columns(schema)


def test_columns_of_a_rule_are_not_words_of_its_texts() -> None:
    assert columns_in("b < 1 AND a = 'c' OR b > 2", ["a", "b", "c"]) == ["b", "a"]


@pytest.mark.parametrize("kind", [pa.float16(), pa.list_(pa.float16(), 4)])
def test_a_vector_of_halves_is_named(kind: pa.DataType) -> None:
    """DuckDB takes no table that has one: an exception of its own, of no use to anybody."""
    columns = pa.schema([("light", pa.float32()), ("vector", kind)])
    try_rules({"dark": "light < 0.2"}, ["light"], columns)
    with pytest.raises(GraphError, match=r"'vector' is a .*half"):
        try_rules({"x": "vector IS NULL"}, ["light", "vector"], columns)
