"""Rules that ask for chance or for the time are refused: another run would keep other rows."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from gristmill.errors import GraphError
from gristmill.pipelines.keep import Keep
from gristmill.pipelines.rule_stability import _functions, unstable_calls

COLUMNS = pa.schema([("width", pa.int32()), ("taken", pa.timestamp("us"))])


@pytest.mark.parametrize(
    ("rule", "call"),
    [
        ("random() < 0.5", "random"),
        ("width > 3 AND uuid() > 'a'", "uuid"),
        ("taken > NOW()", "now"),
        ("taken::DATE = today()", "today"),
        ("taken < current_date", "current_date"),
        ("taken < CURRENT_TIMESTAMP", "current_timestamp"),
        ("taken::TIME < localtime", "localtime"),
        ("taken < ago(INTERVAL 1 DAY)", "ago"),
        ("CASE WHEN width > 3 THEN nextval('s') > 1 END", "nextval"),
        ("width IN (SELECT width FROM rows WHERE random() < 0.1)", "random"),
        ("list_transform([width], lambda w: w * random())[1] > 1", "random"),
    ],
)
def test_a_rule_that_answers_otherwise_each_time_is_refused(rule: str, call: str) -> None:
    with pytest.raises(GraphError, match=rf"rule 'chance' .* asks {call}, which answers otherwise"):
        Keep(rules={"chance": rule}).resolve_columns(COLUMNS)


def test_a_rule_over_values_is_not() -> None:
    rules = {
        "small": "width < quantile(width, 0.3)",
        "old": "taken < TIMESTAMP '2020-01-01' OR date_trunc('year', taken) = DATE '2021-01-01'",
        "odd": "fmod(width, 2) = 1 OR list_sum([width, 1]) > 3 OR nullif(width, 1) IS NULL",
    }
    assert Keep(rules=rules).resolve_columns(COLUMNS) == ("width", "taken")


def test_a_column_may_have_the_name_of_a_clock() -> None:
    columns = pa.schema([("current_date", pa.date32())])
    rules = {"old": "current_date < DATE '2020-01-01'"}
    assert Keep(rules=rules).resolve_columns(columns) == ("current_date",)


def test_every_macro_of_this_duckdb_can_be_asked_about() -> None:
    macros = [name for name, kinds in _functions().items() if any(k == "macro" for k, *_ in kinds)]
    with duckdb.connect(":memory:") as database:
        answers = {name: unstable_calls(database, f'"{name}"(1)', ()) for name in macros}
    assert answers["ago"] and answers["current_schema"] and not answers["fmod"]
