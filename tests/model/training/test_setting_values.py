"""Numbers are numbers however YAML writes them; what is none is said."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from gristmill.errors import ConfigurationError
from gristmill.model.training.setting_values import read_yaml, typed


def test_numbers_without_a_point_are_numbers() -> None:
    written = {"1e-3": 1e-3, "-2E5": -2e5, "1.5e2": 150.0, ".5e1": 5.0, "3": 3, "1.e1": 10.0}
    for text, value in written.items():
        found = read_yaml(f"{{a: {text}, b: [{text}]}}")
        assert found == {"a": value, "b": [value]} and type(found["a"]) is type(value), text
    for text in ("1e", "e3", "1e-3x", "x1e3", "'1e-3'"):
        assert isinstance(read_yaml(text), str), text
    # Other readers in this process read as they did.
    assert yaml.safe_load("1e-3") == "1e-3"


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        ("1e-3", float, 1e-3), (3, float, 3.0), (1e3, int, 1000), ("1e3", int, 1000),
        (True, bool, True), ("false", bool, False), (None, str, ""), ("a", str, "a"),
    ],
)  # fmt: skip
def test_values_get_the_type_of_their_setting(value: Any, kind: type, wanted: Any) -> None:
    found = typed(value, kind, "x")
    assert found == wanted and type(found) is kind


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("fast", float), ([1], float), (None, float), (True, float), (2.5, int), (True, int),
        (1, bool), ("maybe", bool), (3, str), ([], str), ("[", int), (float("inf"), int),
    ],
)  # fmt: skip
def test_another_type_is_refused(value: Any, kind: type) -> None:
    with pytest.raises(ConfigurationError, match=r"x: .* is given, .* is wanted"):
        typed(value, kind, "x")
