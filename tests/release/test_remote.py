"""Releases in a real object store (moto's server on loopback): published, read, raced for, damaged, refused."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

import kar.release
from kar.errors import KarError, ReleaseBusy, ReleaseCorrupt, ReleaseError, ReleaseNotFound, SettingsError, StoreError
from kar.release import layout, manifest, pins, pointer, remote
from kar.release.publish import Published
from kar.release.remote_cache import Cache
from kar.release.remote_place import S3Place
from kar.settings.load import parse
from tests.cli.in_process import kar as kar_command
from tests.release import store as stores
from tests.release import world
from tests.release.store import Asked, Store

MATRIX = "users.preference.adapted-00-0.npy"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with stores.serving() as store:
        yield store


@pytest.fixture
def store(server: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The store, with an empty bucket of this test's own, an empty cache, and credentials in the environment alone."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {**stores.ENVIRONMENT, "AWS_ENDPOINT_URL": server.endpoint, "AWS_CONFIG_FILE": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KAR_CACHE", str(tmp_path / "cache"))
    server.bucket = f"shop-{uuid.uuid4().hex[:8]}"
    fs.S3FileSystem(endpoint_override=server.endpoint, allow_bucket_creation=True).create_dir(server.bucket)
    server.asked.clear()
    yield server
    server.before = None


@pytest.fixture
def uri(store: Store) -> str:
    return f"s3://{store.bucket}/night"


def publish_day(uri: str, number: int, **changed: object) -> Published:
    """As `world.publish_day`."""
    rows = world.sides(newest=world.day(number + 0.5), offset=1000.0 * number)
    return remote.publish(uri, rows, world.facts(world.day(number)), **changed)


def data_key(store: Store, release: str, name: str) -> str:
    """The object, relative to the published place, that holds a release's file."""
    return next(key for key in S3Place(f"s3://{store.bucket}/night").names(f"releases/{release}") if key.endswith(name))


def forget_cache() -> None:
    shutil.rmtree(Cache().objects, ignore_errors=True)


def test_a_release_in_a_store_is_byte_for_byte_the_release_in_a_folder(uri: str, tmp_path: Path) -> None:
    local = world.publish_day(tmp_path / "published", 0)
    there = publish_day(uri, 0)
    assert there.path.name == local.path.name
    assert there.is_new
    assert there.is_promoted
    forget_cache()
    opened, expected = kar.release.open(uri), kar.release.open(tmp_path / "published")
    assert opened.id == expected.id
    assert opened.space_id == expected.space_id
    fetch = opened._fetch
    assert fetch is not None
    for name in manifest.files(expected.manifest):
        assert fetch(name).read_bytes() == (local.path / name).read_bytes(), name
    for side, view, ids in (("user", "user.preference", [103, 115, 7]), ("item", "item.facts", ["i03", "i19"])):
        got, wanted = opened.vectors(side, view, ids), expected.vectors(side, view, ids)
        assert np.array_equal(got[0], wanted[0])
        assert np.array_equal(got[1], wanted[1])
    assert kar.release.verify(uri)["release"] == local.path.name


def test_the_second_night_sends_what_changed_and_copies_the_rest_within_the_store(uri: str, store: Store) -> None:
    first = publish_day(uri, 0)
    whole = store.sent_bytes()
    store.asked.clear()
    second = remote.publish(uri, world.sides(newest=world.day(1.5)), world.facts(world.day(1)))
    shared = {file["sha256"] for file in manifest.files(first.manifest).values()}
    changed = [name for name, file in manifest.files(second.manifest).items() if file["sha256"] not in shared]
    unchanged = [name for name in manifest.files(second.manifest) if name not in changed]
    assert changed
    assert unchanged
    assert sorted(key.rpartition("/")[2] for key in store.puts()) == sorted([*(Path(n).name for n in changed), "manifest.json", "CURRENT"])
    assert len(store.copies()) == len(unchanged)
    assert store.gets() == ["night/CURRENT"]  # what the parent holds was still here
    assert store.sent_bytes() < whole
    forget_cache()
    kar.release.verify(uri)


def test_publishing_the_same_content_again_sends_nothing_and_moves_nothing(uri: str, store: Store) -> None:
    first = publish_day(uri, 0)
    store.asked.clear()
    again = publish_day(uri, 0)
    assert (again.is_new, again.is_promoted, again.manifest_sha) == (False, True, first.manifest_sha)
    assert store.puts() == []


@pytest.mark.slow
def test_the_same_content_from_another_publication_is_served_as_it_lies_there(uri: str, store: Store) -> None:
    first = publish_day(uri, 0)
    publish_day(uri, 1)
    kar.release.rollback(uri, first.path.name)
    kar.release.rollback(uri, publish_day(uri, 1).path.name)
    store.asked.clear()
    facts = world.facts(world.day(0), published_at=world.day(9))
    again = remote.publish(uri, world.sides(newest=world.day(0.5)), facts)
    assert (again.is_new, again.is_promoted, again.manifest_sha) == (False, False, first.manifest_sha)
    assert store.puts() == []


def test_current_is_read_once_and_files_come_when_they_are_first_asked_for(uri: str, store: Store) -> None:
    publish_day(uri, 0)
    forget_cache()
    store.asked.clear()
    opened = kar.release.open(uri)
    assert [Path(key).name for key in store.gets()] == ["CURRENT", "manifest.json"]
    publish_day(uri, 1)
    forget_cache()
    store.asked.clear()
    vectors, _ = opened.vectors("user", "user.preference", [103])
    assert vectors[0, 0] == 1.0
    opened.vectors("user", "user.preference", [106])
    assert sorted(Path(key).name for key in store.gets()) == ["users.index-00-0.arrow", MATRIX]
    assert isinstance(opened.matrix("user.preference"), np.memmap)
    for _ in range(2):
        store.asked.clear()
        assert kar.release.open(uri).vectors("user", "user.preference", [103])[0][0, 0] == 1001.0
    assert store.gets() == ["night/CURRENT"]


def test_as_of_opens_the_release_that_was_served_then_and_a_join_meets_both(uri: str, tmp_path: Path) -> None:
    for number in (0, 1):
        publish_day(uri, number)
        world.publish_day(tmp_path, number)
    served = [entry.since for entry in pointer.read_current(tmp_path).served]
    opened = kar.release.open(uri, as_of=served[0])
    assert opened.vectors("user", "user.preference", [103])[0][0, 0] == 1.0
    assert kar.release.open(f"{uri}/releases/{opened.id}").id == opened.id
    with pytest.raises(ReleaseNotFound, match="served nothing at"):
        kar.release.open(uri, as_of=world.day(-1))
    examples = world.examples([world.day(-1), world.day(1.5), world.day(2.5)], [103, 103, 103], ["i03"] * 3)
    for clock in ("published", "evidence"):
        got, wanted = (kar.release.join(where, examples, clock) for where in (uri, tmp_path))
        for ours, theirs in zip(got.vectors("user", "user.preference"), wanted.vectors("user", "user.preference"), strict=True):
            assert np.array_equal(ours, theirs)


def test_files_and_streams_of_examples_meet_what_lies_in_a_store(uri: str, tmp_path: Path) -> None:
    for number in (0, 1):
        publish_day(uri, number)
        world.publish_day(tmp_path / "published", number)
    examples = world.examples([world.day(-1), world.day(1.5), world.day(2.5)], [103, 103, 103], ["i03"] * 3)
    pq.write_table(examples, tmp_path / "e.parquet")
    for name, where in (("there", uri), ("here", tmp_path / "published")):
        kar.release.join_files(where, tmp_path / "e.parquet", tmp_path / name)
        (batch,) = kar.release.Stream(where, tmp_path / "e.parquet")
        assert batch.vectors["user.preference"][:, 0].tolist() == [0.5, 1.0, 1001.0]
    assert pq.read_table(tmp_path / "there").equals(pq.read_table(tmp_path / "here"))
    with pytest.raises(ReleaseError, match="DuckDB cannot read"):
        kar.release.duckdb_macro(uri)


def test_a_publisher_that_dies_between_any_two_files_leaves_current_as_it_was(uri: str, store: Store) -> None:
    published = publish_day(uri, 0)
    before = published.path.name
    writes = len(manifest.files(published.manifest)) + 2  # the manifest, CURRENT
    for last in (0, 3, writes - 3, writes - 2, writes - 1):  # before the first, between two, before the last, the manifest, CURRENT
        left = iter(range(last))

        def die(asked: Asked, left: Iterator[int] = left) -> None:
            if asked.method == "PUT" and next(left, None) is None:
                raise ConnectionError

        store.before = die
        with pytest.raises(StoreError):
            publish_day(uri, 1)
        store.before = None
        assert kar.release.open(uri).id == before
    assert [one.id for one in kar.release.list_releases(uri) if one.is_current] == [before]
    kar.release.verify(uri)
    after = publish_day(uri, 1)
    assert after.is_promoted
    assert kar.release.verify(uri)["release"] == after.path.name != before


def test_of_two_publishers_at_once_one_wins_and_the_other_is_told_which(uri: str, store: Store) -> None:
    publish_day(uri, 0)
    both = threading.Barrier(2)

    def meet(asked: Asked) -> None:
        if asked.method == "PUT" and asked.key.endswith("CURRENT"):
            both.wait(20)

    def one(number: int) -> str | ReleaseBusy:
        try:
            return publish_day(uri, number).path.name
        except ReleaseBusy as error:
            return error

    store.before = meet
    with ThreadPoolExecutor(2) as pool:
        came = list(pool.map(one, (1, 2)))
    store.before = None
    (winner,) = [one for one in came if isinstance(one, str)]
    (loser,) = [one for one in came if isinstance(one, ReleaseBusy)]
    assert kar.release.open(uri).id == winner
    assert f"made it serve {winner}" in loser.what
    assert "kar release promote" in loser.do
    assert len(kar.release.list_releases(uri)) == 3  # the loser's lies there, whole, for whoever promotes it
    for listed in kar.release.list_releases(uri):
        kar.release.verify(f"{uri}/releases/{listed.id}")


def test_a_put_whose_answer_was_lost_counts_as_done(uri: str, store: Store) -> None:
    """The client sends it again, and is refused because it had worked."""
    place = S3Place(uri)
    assert place.replace_if("CURRENT", b"mine", None)
    from kar.release.remote_checkout import Checkout

    ours = Checkout(uri)
    assert ours._lies("CURRENT", b"mine")
    assert not ours._lies("CURRENT", b"theirs")
    assert not place.replace_if("CURRENT", b"other", None)
    tag = place.read("CURRENT")
    assert tag is not None
    assert place.replace_if("CURRENT", b"other", tag.tag)
    assert not place.replace_if("CURRENT", b"third", tag.tag)


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_object_is_named_and_never_read(uri: str, store: Store, tmp_path: Path, damage: str) -> None:
    release = publish_day(uri, 0).path.name
    key = data_key(store, release, MATRIX)
    data = bytearray(Cache().small(kar.release.open(uri).manifest["matrices"][MATRIX]["sha256"]) or b"")
    data[-1] ^= 1
    (tmp_path / "damaged").write_bytes(data[:-4] if damage == "cut" else data)
    if damage == "gone":
        S3Place(uri).delete(key)
    else:
        S3Place(uri).send(tmp_path / "damaged", key)
    what = {"cut": "bytes should be", "flipped": "the sha256 should be", "gone": "is missing"}[damage]
    with pytest.raises(ReleaseCorrupt, match=what) as told:
        kar.release.verify(uri)
    assert f"{uri}/{key}" in told.value.what
    forget_cache()
    opened = kar.release.open(uri)
    with pytest.raises(ReleaseCorrupt, match=what):
        opened.matrix("user.preference")
    assert opened.vectors("item", "item.facts", ["i03"])[0][0, 0] == 3.0  # what is whole is still read


def test_a_file_damaged_on_this_machine_is_fetched_again_when_verifying(uri: str) -> None:
    publish_day(uri, 0)
    entry = kar.release.open(uri).manifest["matrices"][MATRIX]
    path = Cache()._path(entry["sha256"], uri)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    opened = kar.release.open(uri, verify=True)
    assert opened.vectors("user", "user.preference", [103])[0][0, 0] == 1.0


def test_nothing_published_no_bucket_no_server_and_wrong_credentials_are_named(
    uri: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ReleaseNotFound, match="serves no release") as told:
        kar.release.open(uri)
    assert uri in told.value.what
    for act in (lambda: kar.release.open("s3://no-such-bucket/night"), lambda: publish_day("s3://no-such-bucket/night", 0)):
        with pytest.raises(ReleaseNotFound, match="there is no bucket no-such-bucket at"):
            act()
    publish_day(uri, 0)
    store.require_credentials(on=True)
    try:
        for act in (lambda: kar.release.open(uri), lambda: publish_day(uri, 1), lambda: kar.release.list_releases(uri)):
            with pytest.raises(StoreError, match="refuses our credentials") as refused:
                act()
            assert "AWS_ACCESS_KEY_ID" in refused.value.do
            assert not [s for s in (stores.ENVIRONMENT["AWS_ACCESS_KEY_ID"], "planted") if s in str(refused.value)]
    finally:
        store.require_credentials(on=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for act in (lambda: kar.release.open(uri), lambda: S3Place(uri).replace_if("CURRENT", b"", None)):
        with pytest.raises(StoreError, match="nothing answers at 127") as silent:
            act()
        assert "AWS_ENDPOINT_URL" in silent.value.do


@pytest.mark.parametrize(
    "uri", ["s3://key:planted@shop/night", "s3://shop/night?secret_key=planted", "gs://shop/night", "s3:///night", "s3://shop//x"]
)
def test_a_uri_that_is_none_or_holds_credentials_is_refused_without_being_repeated(uri: str) -> None:
    with pytest.raises(ReleaseError, match="s3://bucket/prefix") as told:
        kar.release.open(uri)
    assert "planted" not in str(told.value)


def test_credentials_and_endpoint_are_written_nowhere(uri: str, store: Store, tmp_path: Path) -> None:
    publish_day(uri, 0)
    place = S3Place(uri)
    for name in place.names():
        held = place.read(name)
        assert held is not None
        assert not [s for s in (*stores.ENVIRONMENT.values(), store.endpoint) if s.encode() in held.data and len(s) > 4], name


@pytest.mark.slow
def test_promote_and_rollback_move_current_and_a_rollback_mends_a_damaged_one(uri: str) -> None:
    first = publish_day(uri, 0).path.name
    second = publish_day(uri, 1, promote=False)
    assert not second.is_promoted
    assert kar.release.open(uri).id == first
    with pytest.raises(ReleaseNotFound, match="no release 'nope'"):
        kar.release.promote(uri, "nope")
    kar.release.promote(uri, second.path.name)
    assert kar.release.open(uri).id == second.path.name
    with pytest.raises(ReleaseError, match="not newer"):
        kar.release.promote(uri, first)
    kar.release.rollback(uri, first)
    assert [(one.id, one.is_current) for one in kar.release.list_releases(uri)] == [(second.path.name, False), (first, True)]
    place = S3Place(uri)
    held = place.read("CURRENT")
    assert held is not None
    assert place.replace_if("CURRENT", b"", held.tag)
    with pytest.raises(ReleaseCorrupt, match="is empty") as told:
        kar.release.open(uri)
    assert f"{uri}/CURRENT" in told.value.what
    kar.release.rollback(uri, second.path.name)
    assert kar.release.open(uri).id == second.path.name


def test_what_a_function_for_folders_changes_goes_back_and_is_decided_again_if_somebody_was_quicker(uri: str) -> None:
    first, second = (publish_day(uri, number).path.name for number in (0, 1))
    seen = []

    def drop_what_no_lease_names(folder: Path) -> list[str]:
        leased = [json.loads(path.read_bytes())["release"] for path in (folder / "leases").glob("*.json")]
        seen.append(leased)
        if len(seen) == 1:  # a reader takes a lease while this is being decided
            assert S3Place(uri).replace_if("leases/a.json", json.dumps({"release": first}).encode(), None)
        dropped = [name for name in (first,) if name not in leased]
        for name in dropped:
            shutil.rmtree(layout.releases_folder(folder) / name)
        return dropped

    assert remote.changed(uri, drop_what_no_lease_names) == []
    assert seen == [[], [first]]
    assert {one.id for one in kar.release.list_releases(uri)} == {first, second}
    remote.changed(uri, lambda folder: (folder / "leases/a.json").unlink())
    assert remote.changed(uri, drop_what_no_lease_names) == [first]
    assert not [name for name in S3Place(uri).names() if first in name or name.startswith("leases/")]
    kar.release.verify(uri)
    with pytest.raises(ReleaseBusy, match="others changed"):
        remote.changed(uri, lambda folder: _meddle(uri, folder))


def _meddle(uri: str, folder: Path) -> None:
    place = S3Place(uri)
    held = place.read("pins.json")
    place.replace_if("pins.json", uuid.uuid4().bytes, held.tag if held else None)
    (folder / "pins.json").write_bytes(b"mine")


def test_collect_leaves_what_is_leased_or_pinned_and_a_lease_is_refused_once_its_release_is_gone(uri: str, store: Store) -> None:
    first, second, third = (publish_day(uri, number).path.name for number in range(3))
    opened = kar.release.open(f"{uri}/releases/{first}")
    remote.changed(uri, lambda folder: pins.add(folder, second, "a study"))
    with opened.lease(600, "a training"):
        assert kar.release.collect(uri, 1).removed == []
        assert {one.id: [str(lease.reader) for lease in one.leases] for one in kar.release.list_releases(uri)}[first] == ["a training"]
    assert not [name for name in S3Place(uri).names() if name.startswith("leases/")]
    assert (kar.release.collect(uri, 1, dry_run=True).removed, len(kar.release.list_releases(uri))) == ([first], 3)
    collected = kar.release.collect(uri, 1)
    assert collected.removed == [first]
    assert collected.freed_bytes > 3000
    assert {name.split("/")[1] for name in S3Place(uri).names("releases")} == {second, third}
    with pytest.raises(ReleaseNotFound, match="it was removed"):
        opened.lease(600)
    with pytest.raises(ReleaseNotFound, match="kar release collect removed"):
        remote.looked(uri, lambda folder: pointer.named(folder, first))
    with kar.release.open(uri, lease_s=600).lease(60) as lease:
        assert lease.is_held


@pytest.mark.slow
def test_collect_removes_what_a_dead_publisher_left_a_day_ago_and_nothing_of_one_at_work(uri: str, tmp_path: Path) -> None:
    publish_day(uri, 0)
    place = S3Place(uri)
    kept = set(place.names())
    (tmp_path / "left").write_bytes(b"half a file")
    place.send(tmp_path / "left", "releases/2026-11-02-0123456789/0123456789ab/users.npy")
    kar.release.collect(uri)
    assert set(place.names()) == {*kept, "releases/2026-11-02-0123456789/0123456789ab/users.npy"}
    in_two_days = dt.datetime.now(dt.UTC) + dt.timedelta(days=2)
    assert kar.release.collect(uri, at=in_two_days).freed_bytes == len(b"half a file")
    assert set(place.names()) == kept


def test_a_lease_that_comes_while_its_release_is_being_removed_brings_it_back(uri: str, store: Store) -> None:
    first, second = (publish_day(uri, number).path.name for number in range(2))
    opened = kar.release.open(f"{uri}/releases/{first}")
    outcomes: list[object] = []

    def take_between(asked: Asked) -> None:
        """After the collector's look, before its hand: the reader puts its lease, sees the release, and reads on."""
        if asked.method == "DELETE" and not outcomes:
            outcomes.append("coming")
            outcomes.append(opened.lease(600, "quick"))

    store.before = take_between
    assert kar.release.collect(uri, 1).removed == []
    store.before = None
    lease = outcomes[1]
    assert isinstance(lease, kar.release.Lease)
    assert lease.is_held
    assert kar.release.verify(f"{uri}/releases/{first}")["release"] == first
    lease.close()
    assert kar.release.collect(uri, 1).removed == [first]
    assert kar.release.open(uri).id == second


def test_the_cache_forgets_what_was_used_longest_ago_and_nothing_that_is_in_use(tmp_path: Path) -> None:
    cache, paths = Cache(tmp_path, limit=250), []
    for number in range(4):
        data = bytes([number]) * 100
        path = cache.file(hashlib.sha256(data).hexdigest(), 100, "s3://x/y", lambda to, data=data: to.write(data) and None)
        os.utime(path, (time.time() - 10_000 + number,) * 2)
        paths.append(path)
    cache.trim()
    assert [path.exists() for path in paths] == [False, False, True, True]
    for path in paths[2:]:
        os.utime(path)
    Cache(tmp_path, limit=0).trim()
    assert all(path.exists() for path in paths[2:])


def test_a_manifest_that_names_files_outside_its_release_is_refused(uri: str) -> None:
    release = publish_day(uri, 0).path.name
    place = S3Place(uri)
    held = place.read(f"releases/{release}/manifest.json")
    assert held is not None
    told = json.loads(held.data)
    told["stats"]["path"] = "../../../stats.json"
    assert place.replace_if(f"releases/{release}/manifest.json", json.dumps(told).encode(), held.tag)
    with pytest.raises(ReleaseCorrupt, match="outside the release"):
        kar.release.open(f"{uri}/releases/{release}")


@pytest.mark.slow
def test_kar_release_speaks_of_the_store_that_the_settings_name(uri: str, tmp_path: Path) -> None:
    first, second, third = (publish_day(uri, number).path.name for number in range(3))
    (tmp_path / "s.toml").write_text(
        '[scenario]\nname = "s"\ndomain = "movies"\n[sources]\nfolder = "data"\n[sources.interactions]\n'
        'path = "i.csv"\nformat = "csv"\ncolumns = {user_id = "u", item_id = "i", event_at = "t", rating = "r"}\n'
        f'[features]\npublished = "{uri}"\n',
        encoding="utf-8",
    )

    def asked(*words: str) -> str:
        done = kar_command(tmp_path, "release", *words, "--settings", "s.toml")
        assert done.returncode == 0, done.stderr
        assert "scratch" not in done.stdout
        return done.stdout

    assert all(name in asked("list") for name in (first, second, third))
    assert f"in {uri}/releases/{second}" in asked("show", "2026-11-02")
    assert asked("verify", first).startswith(f"{first}: every digest")
    assert "user.preference" in asked("diff", first, second)
    assert asked("rollback", "2026-11-02").startswith(f"{second} is served; before it was {third}")
    assert asked("promote", third).startswith(f"{third} is served")
    assert asked("pin", first, "--why", "a study").startswith(f"{first} is pinned: a study")
    assert "removed" in asked("collect", "--keep", "1")
    assert {one.id for one in kar.release.list_releases(uri)} == {first, third}
    assert "no longer" in asked("unpin", first)
    exported = kar_command(tmp_path, "release", "export", "--out", "plain", "--settings", "s.toml")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "plain").is_dir()
    asked_sql = kar_command(tmp_path, "sql", "select count(*) as n from releases", "--format", "csv", "--settings", "s.toml")
    assert asked_sql.stdout.split() == ["n", "2"], asked_sql.stderr
    for words in (("forget", "user", "103"), ("catalog", "--out", "c.duckdb")):
        no = kar_command(tmp_path, *words, "--settings", "s.toml")
        assert (no.returncode, uri in no.stderr) == (1, True), words
    refused = kar_command(tmp_path, "release", "show", "2025", "--settings", "s.toml")
    assert (refused.returncode, "scratch" in refused.stderr, uri in refused.stderr) == (1, False, True)


def test_a_setting_that_holds_credentials_is_refused_without_being_repeated() -> None:
    with pytest.raises(SettingsError, match=r"features\.published") as told:
        parse({"scenario": {"name": "s"}, "sources": {"folder": "d"}, "features": {"published": "s3://key:planted@shop/night"}})
    assert "planted" not in str(told.value)


@pytest.mark.slow
def test_reading_needs_no_extra_and_publishing_names_the_one_that_it_needs(uri: str, tmp_path: Path) -> None:
    publish_day(uri, 0)
    script = """
import sys
class Only:
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names | {"kar", "pyarrow", "numpy", "tests"} and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Only())
import kar.release
assert kar.release.open(sys.argv[1], verify=True).vectors("user", "user.preference", [103])[0][0, 0] == 1.0
kar.release.list_releases(sys.argv[1])
from kar.release import remote
from tests.release import world
try:
    remote.publish(sys.argv[1], world.sides(newest=world.day(1.5)), world.facts(world.day(1)))
except kar.errors.StoreError as error:
    print(error)
"""
    environment = {**os.environ, "KAR_CACHE": str(tmp_path / "other")}
    done = subprocess.run([sys.executable, "-c", script, uri], cwd=REPOSITORY, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "needs botocore" in done.stdout
    assert "pip install 'kar[s3]'" in done.stdout


@pytest.mark.slow
def test_every_error_of_a_store_is_a_named_one(uri: str, store: Store) -> None:
    """Whatever request is refused, nothing but a KarError comes out."""
    publish_day(uri, 0)
    for refused in ("GET", "HEAD"):

        def refuse(asked: Asked, refused: str = refused) -> None:
            if asked.method == refused:
                raise ConnectionError

        store.before = refuse
        forget_cache()
        with pytest.raises(KarError) as told:
            kar.release.open(uri)
        assert told.value.do
