"""What was typed as name=value."""

from __future__ import annotations

import pytest

from gristmill.errors import ConfigurationError
from gristmill.pipelines.key_value import key_value


def test_the_first_sign_parts_name_and_value() -> None:
    assert key_value(" keep.rules.a b =x = 'y' ", "--set", "n=v") == ("keep.rules.a b", "x = 'y' ")
    assert key_value("clip=", "--set", "n=v") == ("clip", "")


@pytest.mark.parametrize("text", ["clip", "=5", " = 5"])
def test_what_lacks_a_part_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--rule .*write reason=SQL"):
        key_value(text, "--rule", "reason=SQL")
