"""One filled home for all tests of the catalogue: none of them writes to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kar.settings import Settings
from kar.store import Home
from tests.catalog import filled


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Home]:
    return filled.build(tmp_path_factory.mktemp("catalog"))


@pytest.fixture
def empty(shop: tuple[Settings, Home], tmp_path: Path) -> tuple[Settings, Home]:
    """The same settings before the first night."""
    return shop[0], Home(tmp_path, "fake-films")
