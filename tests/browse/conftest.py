from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from kar.browse.app import application
from kar.store import Home
from tests.browse import planted


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The planted home; nobody changes it."""
    return planted.build(tmp_path_factory.mktemp("planted"))[1]


@pytest.fixture
def client(home: Home) -> TestClient:
    return TestClient(application(planted.settings(planted.World(), home.root), home), base_url="http://127.0.0.1")


@pytest.fixture(scope="session")
def hostile_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return planted.build(tmp_path_factory.mktemp("hostile"), planted.hostile())[1]


@pytest.fixture
def hostile(hostile_home: Home) -> TestClient:
    return TestClient(application(planted.settings(planted.hostile(), Path("/nowhere")), hostile_home), base_url="http://127.0.0.1")
