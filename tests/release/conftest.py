"""One release published once, copied for each test that reads or damages it: publishing fsyncs, copying does not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kar.release.publish import Published
from tests.release import world


@pytest.fixture(scope="session")
def first_night(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return world.publish_day(tmp_path_factory.mktemp("night"), 0)


@pytest.fixture
def night(first_night: Published, tmp_path: Path) -> Published:
    """The release of day 0, published in `tmp_path`."""
    shutil.copytree(first_night.path.parents[1], tmp_path, dirs_exist_ok=True)
    return replace(first_night, path=tmp_path / "releases" / first_night.path.name)
