"""The catalogue and the export of releases that lie in an object store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from kar.release import remote
from kar.settings import Settings
from kar.store import Home
from tests.catalog.test_commands import SETTINGS
from tests.catalog.test_views import ask
from tests.cli.in_process import kar
from tests.release import store as stores
from tests.release import world


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A published place in a real store, with one release."""
    with stores.serving() as server:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in {**stores.ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint, "AWS_CONFIG_FILE": str(tmp_path / "none")}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("KAR_CACHE", str(tmp_path / "cache"))
        fs.S3FileSystem(endpoint_override=server.endpoint, allow_bucket_creation=True).create_dir("shop")
        remote.publish("s3://shop/night", world.sides(), world.facts())
        yield "s3://shop/night"


def test_a_release_in_a_store_is_asked_and_exported_as_one_in_a_folder_is(shop: tuple[Settings, Home], uri: str, tmp_path: Path) -> None:
    there = shop[0], Home(tmp_path / "home", "fake-films", uri)
    (row,) = ask(there, "select release_id, path, is_current from releases")
    assert (row["path"], row["is_current"]) == (f"{uri}/releases/{row['release_id']}", True)
    assert ask(there, "select count(*) as n, sum(preference_adapted_vector[1]) as s from release_user") == [{"n": world.USERS, "s": 62.0}]
    (tmp_path / "films.toml").write_text(f'{SETTINGS}[features]\npublished = "{uri}"\n')
    done = kar(tmp_path, "release", "export", "-s", "films.toml", "--out", "plain")
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "plain" / "user_knowledge").num_rows == world.USERS


def test_a_store_without_a_release_is_empty_and_no_error(shop: tuple[Settings, Home], uri: str, tmp_path: Path) -> None:
    there = shop[0], Home(tmp_path / "home", "fake-films", uri.replace("night", "morning"))
    assert ask(there, "select count(*) as n from releases") == [{"n": 0}]
    assert ask(there, "select count(*) as n from release_knowledge") == [{"n": 0}]
