"""`verify` finds a planted difference in every kind of file and names it; opening finds the cheap ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar.errors import ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import audit, durable, manifest
from kar.release.publish import Published
from tests.release import world


def _flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(bytes(data))


def _edit(folder: Path, change: Callable[[dict], None], *, rename: bool = False) -> Path:  # type: ignore[type-arg]
    """Change the manifest; with rename also give the release the id and folder its content then asks for."""
    found = json.loads((folder / "manifest.json").read_text())
    change(found)
    if rename:
        found["release"] = manifest.release_id(found)
    (folder / "manifest.json").write_bytes(manifest.to_bytes(found))
    return folder.rename(folder.parent / found["release"]) if rename else folder


def _rewrite(folder: Path, name: str) -> None:
    """Write a file's entry anew, so that only what is inside differs from what the manifest means: which files hold it is not in the id."""
    path = folder / name
    entry = {"bytes": path.stat().st_size, "sha256": durable.file_sha(path)}

    def change(found: dict) -> None:  # type: ignore[type-arg]
        manifest.files(found)[name].update(entry)

    _edit(folder, change)


def test_a_fresh_release_verifies_by_folder_and_by_pointer(tmp_path: Path, night: Published) -> None:
    assert kar.release.verify(night.path) == night.manifest
    assert kar.release.verify(tmp_path) == night.manifest


def test_a_release_copied_elsewhere_still_verifies(tmp_path: Path) -> None:
    done = world.publish_day(tmp_path / "published", 0)
    copy = shutil.copytree(done.path, tmp_path / done.path.name)
    assert kar.release.open(copy, verify=True).id == done.path.name


@pytest.mark.parametrize("name", ["user_knowledge/part-00-0.parquet", "items.facts.adapted-00-0.npy", "stats.json"])
def test_a_flipped_byte_is_found_in_every_kind_of_file(tmp_path: Path, night: Published, name: str) -> None:
    _flip(night.path / name, -20)
    with pytest.raises(ReleaseCorrupt, match=f"{name}: the sha256 should be"):
        kar.release.open(tmp_path, verify=True)


@pytest.mark.parametrize("name", ["user_knowledge/part-00-0.parquet", "users.preference.knowledge-00-0.npy"])
def test_a_truncated_file_is_found_at_opening_without_verifying(tmp_path: Path, night: Published, name: str) -> None:
    path = night.path / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ReleaseCorrupt, match=f"{name}: bytes should be"):
        kar.release.open(tmp_path)


def test_a_lost_file_is_named_at_opening(tmp_path: Path, night: Published) -> None:
    (night.path / "item_knowledge/part-00-0.parquet").unlink()
    with pytest.raises(ReleaseCorrupt, match=r"part-00-0.parquet is missing"):
        kar.release.open(tmp_path)


def test_a_file_that_the_manifest_does_not_name_is_found(tmp_path: Path, night: Published) -> None:
    (night.path / "user_knowledge/part-1.parquet").write_bytes(b"x")
    with pytest.raises(ReleaseCorrupt, match=r"does not name: \['user_knowledge/part-1.parquet'\]"):
        kar.release.verify(tmp_path)


def test_an_edited_manifest_is_not_the_file_that_current_points_at(tmp_path: Path, night: Published) -> None:
    _edit(night.path, lambda found: found.update(published_at="2020-01-01T00:00:00.000000+00:00"))
    with pytest.raises(ReleaseCorrupt, match="not the file that CURRENT points at"):
        kar.release.open(tmp_path)


def test_an_edited_manifest_does_not_fit_its_release_id(night: Published) -> None:
    _edit(night.path, lambda found: found.update(scenario="other"))
    with pytest.raises(ReleaseCorrupt, match="the release id should be"):
        kar.release.verify(night.path)


def test_a_renamed_folder_is_found(night: Published) -> None:
    with pytest.raises(ReleaseCorrupt, match="the release id should be"):
        kar.release.verify(night.path.rename(night.path.parent / "2026-11-09-0123456789"))


def test_a_matrix_that_differs_from_its_parquet_column_is_found_although_the_digests_fit(night: Published) -> None:
    folder = night.path
    matrix = np.load(folder / "users.preference.adapted-00-0.npy")
    matrix[3, 1] += 1
    np.save(folder / "users.preference.adapted-00-0.npy", matrix)
    _rewrite(folder, "users.preference.adapted-00-0.npy")
    with pytest.raises(ReleaseCorrupt, match=r"not the floats of users.preference.adapted-00-0.npy"):
        kar.release.verify(folder)


def _with_users(night: Published, change: Callable[[pa.Table], pa.Table]) -> Path:
    """A release whose user table was rewritten by somebody who also mended every digest."""
    folder = night.path
    path = folder / "user_knowledge/part-00-0.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    _rewrite(folder, "user_knowledge/part-00-0.parquet")
    return folder


def test_a_lost_row_is_found_although_the_digests_fit(night: Published) -> None:
    with pytest.raises(ReleaseCorrupt, match="rows should be 12, found 11"):
        kar.release.verify(_with_users(night, lambda table: table.slice(0, 11)))


def test_a_column_of_another_type_is_found_although_the_digests_fit(night: Published) -> None:
    def narrower(table: pa.Table) -> pa.Table:
        return table.set_column(0, pa.field("user_id", pa.int32(), nullable=False), table.column(0).cast(pa.int32()))

    with pytest.raises(ReleaseCorrupt, match="the schema should be"):
        kar.release.verify(_with_users(night, narrower))


def test_a_number_that_is_not_finite_is_found_although_the_digests_fit(night: Published) -> None:
    def broken(table: pa.Table) -> pa.Table:
        place = table.column_names.index("preference_adapted_vector")
        field = table.schema.field(place)
        values = table.column(place).to_pylist()
        values[7][2] = float("inf")
        return table.set_column(place, field, pa.array(values, field.type))

    with pytest.raises(ReleaseCorrupt, match=r"preference_adapted_vector: not a finite number in row 7 \(id 121\)"):
        kar.release.verify(_with_users(night, broken))


def test_evidence_that_was_changed_is_found_although_the_digests_fit(night: Published) -> None:
    def later(table: pa.Table) -> pa.Table:
        place = table.column_names.index("preference_evidence_newest_at")
        values = [None if value is None else world.day(99) for value in table.column(place).to_pylist()]
        return table.set_column(place, table.schema.field(place), pa.chunked_array([pa.array(values, table.schema.field(place).type)]))

    with pytest.raises(ReleaseCorrupt, match="the content of preference_evidence_newest_at should be"):
        kar.release.verify(_with_users(night, later))


def test_a_data_cutoff_that_is_older_than_the_evidence_is_found(night: Published) -> None:
    folder = _edit(night.path, lambda found: found.update(data_cutoff="2026-10-31T00:00:00.000000+00:00"), rename=True)
    with pytest.raises(ReleaseCorrupt, match="data_cutoff"):
        kar.release.verify(folder)


def test_an_age_that_the_tables_do_not_bear_out_is_found(night: Published) -> None:
    folder = _edit(night.path, lambda found: found["age"].update({"user.preference": {"30": 10}}), rename=True)
    with pytest.raises(ReleaseCorrupt, match=r"age of user.preference should be \{'30': 10\}, found \{'0': 10\}"):
        kar.release.verify(folder)


def test_a_claimed_coverage_that_is_wrong_is_found(night: Published) -> None:
    folder = night.path
    folder = _edit(folder, lambda found: found["tables"]["user_knowledge"]["coverage"].update({"user.preference": 1.0}), rename=True)
    with pytest.raises(ReleaseCorrupt, match="coverage of users"):
        kar.release.verify(folder)


def test_claimed_stats_that_are_wrong_are_found_although_the_digests_fit(night: Published) -> None:
    folder = night.path
    stats = json.loads((folder / "stats.json").read_text())
    stats["item.facts"]["adapted"]["norm_mean"] += 1
    (folder / "stats.json").write_text(json.dumps(stats))
    _rewrite(folder, "stats.json")
    with pytest.raises(ReleaseCorrupt, match=r"item\.facts adapted norm_mean"):
        kar.release.verify(folder)


def test_a_manifest_from_a_future_format_asks_for_a_newer_kar(night: Published) -> None:
    _edit(night.path, lambda found: found.update(format=4))
    with pytest.raises(ReleaseError, match=r"has format 4; this kar reads up to 3\n  do: read it with a newer kar"):
        kar.release.open(night.path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "1"}', '{"format": 1}'])
def test_a_manifest_that_is_none_is_named(night: Published, text: str) -> None:
    (night.path / "manifest.json").write_text(text)
    with pytest.raises(ReleaseCorrupt, match=r"manifest.json"):
        kar.release.open(night.path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "CURRENT is empty"),
        ("{", "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"release": "x"}', "cannot be read"),
        ("null", "cannot be read"),
    ],
)
def test_a_damaged_current_says_how_to_mend_it(tmp_path: Path, night: Published, text: str, words: str) -> None:
    (tmp_path / "CURRENT").write_text(text)
    with pytest.raises(ReleaseCorrupt, match=rf"{words}[\s\S]*do: name a release to serve: kar release rollback"):
        kar.release.open(tmp_path)


def test_a_current_that_points_nowhere_says_where(tmp_path: Path, night: Published) -> None:
    shutil.rmtree(night.path)
    with pytest.raises(ReleaseNotFound, match=f"points at release {night.path.name}, which is not in"):
        kar.release.open(tmp_path)


def test_nothing_published_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReleaseNotFound, match="there is no CURRENT in it"):
        kar.release.open(tmp_path)
    with pytest.raises(ReleaseNotFound, match="there is no folder"):
        kar.release.open(tmp_path / "nowhere")


def test_a_part_is_not_compared_again_only_if_the_release_before_has_it_byte_for_byte(night: Published) -> None:
    name = "users.preference.adapted-00-0.npy"
    _flip(night.path / name, -20)
    _rewrite(night.path, name)  # the matrix is no longer what the Parquet file holds, and its digest says nothing of that
    found = manifest.read(night.path)
    for before in (None, night.manifest, found | {"code_version": "another"}):
        with pytest.raises(ReleaseCorrupt, match=f"not the floats of {name}"):
            audit.verify_content(night.path, found, before)
    with pytest.raises(ReleaseCorrupt, match="the content of preference_adapted_vector"):  # what all parts say together is looked at anyway
        audit.verify_content(night.path, found, found)
    _flip(night.path / name, -40)
    with pytest.raises(ReleaseCorrupt, match=f"{name}: the sha256 should be"):
        audit.verify_content(night.path, found, found)
