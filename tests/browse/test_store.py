"""Pages over releases that lie in an object store: a real S3-compatible server on loopback."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs
from starlette.testclient import TestClient

from kar.browse.app import application
from kar.store import Home
from tests.browse import planted
from tests.browse.read import page
from tests.release import store as stores


def at(home: Home, uri: str, folder: Path) -> TestClient:
    return TestClient(application(planted.settings(planted.World(), folder), replace(home, published_uri=uri)), base_url="http://127.0.0.1")


def away(monkeypatch: pytest.MonkeyPatch, folder: Path, endpoint: str) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**stores.ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint, "AWS_CONFIG_FILE": str(folder / "none")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KAR_CACHE", str(folder / "cache"))


@pytest.mark.slow
def test_neighbours_and_releases_come_from_the_store(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(home.root, tmp_path / "home")
    copied = Home.of("planted", tmp_path / "home")
    with stores.serving() as server:
        away(monkeypatch, tmp_path, server.endpoint)
        files = fs.S3FileSystem(endpoint_override=server.endpoint, allow_bucket_creation=True)
        files.create_dir("films")
        planted.publish_all(planted.World(), "s3://films/night")
        shutil.rmtree(copied.published)
        client = at(copied, "s3://films/night", tmp_path)
        assert len(page(client.get("/releases").text).one("table").rows) == 2
        shown = page(client.get("/item?id=20").text)
        assert shown.one("table", class_="near").rows[0][0] == f"{planted.TITLES[7]} 80"
        assert [row[3] for row in shown.one("table", class_="versions").rows] == ["0.500", "–"]


def test_a_store_that_cannot_be_reached_is_named_and_the_nights_are_still_shown(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away(monkeypatch, tmp_path, "http://127.0.0.1:9")
    shown = page(at(home, "s3://films/night", tmp_path).get("/item?id=20").text)
    assert "The releases cannot be read" in shown.words
    assert "A quick comedy" in shown.words
