"""A child starts without pandas; a stage that uses it finds Arrow as it is elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from gristmill.pipelines.child import Child


class Arrays:
    """What a child serves here; nothing is imported before it is asked for."""

    def of_a_list(self) -> tuple[int, bool]:
        import pyarrow as pa

        return len(pa.array([1, None])), "pandas" in sys.modules

    def ask(self) -> bool:
        import importlib.util

        return importlib.util.find_spec("pandas") is not None

    def of_a_series(self) -> int:
        import pandas as pd
        import pyarrow as pa

        return pa.array(pd.Series([1.0, float("nan")])).null_count

    def to_pandas(self) -> list[int]:
        import pyarrow as pa

        return list(pa.table({"a": [1, 2]}).to_pandas()["a"])


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child(Arrays)
    yield made
    made.close()


def test_arrow_does_without_pandas_until_it_is_imported(child: Child) -> None:
    assert child.call("of_a_list", deadline_s=60) == (2, False)
    assert child.call("ask", deadline_s=60), "as libraries do that could use it"
    assert child.call("of_a_series", deadline_s=60) == 1, "NaN of a Series is null"
    assert child.call("of_a_list", deadline_s=60) == (2, True)


def test_arrow_itself_may_ask_for_pandas(child: Child) -> None:
    assert child.call("to_pandas", deadline_s=60) == [1, 2]
