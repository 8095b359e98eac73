"""A web server on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from loopback import Loopback, serving


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving() as made:
        yield made
