"""Publishing: what lies on disk, what is the same release, and when CURRENT moves."""

from __future__ import annotations

import datetime as dt
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar.errors import ReleaseCorrupt, ReleaseError
from kar.release import layout, pointer
from kar.release.publish import Published, publish
from kar.release.reader import Release
from kar.release.rows import Layering, SideRows
from kar.release.verdicts import GateVerdict
from tests.release import world

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_release_holds_tables_matrices_stats_and_a_manifest_and_nothing_else(tmp_path: Path, night: Published) -> None:
    assert sorted(str(p.relative_to(night.path)) for p in night.path.rglob("*") if p.is_file()) == [
        "item_knowledge/part-00-0.parquet",
        "items.facts.adapted-00-0.npy",
        "items.facts.knowledge-00-0.npy",
        "items.index-00-0.arrow",
        "manifest.json",
        "stats.json",
        "user_knowledge/part-00-0.parquet",
        "users.index-00-0.arrow",
        "users.preference.adapted-00-0.npy",
        "users.preference.knowledge-00-0.npy",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".publish.lock", "CURRENT", "releases"]
    assert [p.name for p in (tmp_path / "releases").iterdir()] == [night.path.name]


def test_every_subject_has_a_row_and_a_missing_one_holds_the_learned_default(night: Published) -> None:
    table = pq.read_table(night.path / "user_knowledge/part-00-0.parquet")
    assert table.column("user_id").to_pylist() == world.user_ids().to_pylist()
    rows = table.to_pylist()
    assert [n for n, row in enumerate(rows) if row["preference_is_missing"]] == [0, 5]
    assert rows[5]["preference_adapted_vector"] == [0.5] * world.A
    assert rows[5]["preference_knowledge_vector"] == [0.0] * world.T
    assert {rows[5][f"preference_{c}"] for c in ("evidence_newest_at", "asked_at", "origin", "model")} == {None}
    assert rows[6]["preference_adapted_vector"][0] == 6.0
    assert rows[6]["preference_knowledge_vector"][0] == -6.0
    assert rows[6]["preference_evidence_newest_at"] == world.day(0.5)


def test_vectors_are_byte_stream_split_without_dictionary_in_not_null_fixed_size_lists(night: Published) -> None:
    file = pq.ParquetFile(night.path / "user_knowledge/part-00-0.parquet")
    field = file.schema_arrow.field("preference_adapted_vector")
    assert field.type == pa.list_(pa.field("element", pa.float32(), nullable=False), world.A)
    assert not field.nullable
    group = file.metadata.row_group(0)
    columns = {group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)}
    vectors = [column for path, column in columns.items() if "_vector" in path]
    assert len(vectors) == 2
    for column in vectors:
        assert "BYTE_STREAM_SPLIT" in column.encodings
        assert not column.has_dictionary_page
        assert column.compression == "ZSTD"


def test_a_table_of_many_rows_is_cut_into_row_groups_of_131072_and_into_buckets_by_a_stable_hash(tmp_path: Path) -> None:
    count = layout.ROW_GROUP + 5
    users = world.view_rows("user.preference", 3, missing={1}, newest=world.DAY, adapted=1, knowledge=1)
    rows = np.arange(count) % 3
    many = replace(
        users,
        **{name: getattr(users, name)[rows] for name in ("is_missing", "adapted", "knowledge")},
        **{name: getattr(users, name).take(pa.array(rows)) for name in ("evidence_newest_at", "asked_at", "origin", "model")},
    )
    sides = (SideRows("user", pa.array(range(count)), (many,)), world.sides()[1])
    done = publish(tmp_path, sides, world.facts())
    groups = pq.ParquetFile(done.path / "user_knowledge/part-00-0.parquet").metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [layout.ROW_GROUP, 5]

    cut = publish(tmp_path / "cut", sides, world.facts(), layering=Layering(bucket_rows=50_000))
    names = [f"user_knowledge/part-{n:02d}-0.parquet" for n in range(4)]
    parts = [pq.read_table(cut.path / name, columns=["user_id"]).column(0).to_numpy() for name in names]
    assert all(np.all(np.diff(part) > 0) for part in parts)
    assert [len(part) for part in parts] == pytest.approx([count / 4] * 4, rel=0.03)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(count))
    assert cut.path.name == done.path.name, "the same content in other files is the same release"
    release = kar.release.open(tmp_path / "cut", verify=True)
    asked = [count - 1, 0, 70_001, count]
    assert release.rows("user", asked).tolist() == [count - 1, 0, 70_001, -1]
    assert release.vectors("user", "user.preference", asked)[0][:, 0].tolist() == [(count - 1) % 3, 0.0, 2.0, 0.5]


def test_publishing_the_same_content_twice_is_the_same_release(tmp_path: Path) -> None:
    first = world.publish_day(tmp_path, 0)
    second = world.publish_day(tmp_path, 0, published_at=world.day(30), code_version="another", is_reconstructed=True)
    assert (second.path, second.is_new, second.is_promoted) == (first.path, False, True)
    assert second.manifest == first.manifest
    assert second.manifest_sha == first.manifest_sha


@pytest.mark.parametrize("change", [{"encoder_id": "hash-7"}, {"adaptor": {"sha": "b" * 64}}, {"normalisation": "none"}])
def test_another_encoder_adaptor_or_normalisation_is_another_space_and_release(
    tmp_path: Path, night: Published, change: dict[str, object]
) -> None:
    first, second = night, world.publish_day(tmp_path, 0, **change)
    assert first.manifest["space_id"] != second.manifest["space_id"]
    assert len(second.manifest["space_id"]) == 16
    assert first.path != second.path


def test_one_changed_float_is_another_release_in_the_same_space(tmp_path: Path) -> None:
    first = publish(tmp_path, world.sides(offset=0.0), world.facts())
    second = publish(tmp_path, world.sides(offset=0.001), world.facts())
    assert first.path != second.path
    assert first.manifest["space_id"] == second.manifest["space_id"]


def test_the_manifest_says_coverage_cutoff_and_id_types(tmp_path: Path) -> None:
    found = world.publish_day(tmp_path, 2).manifest
    assert found["tables"]["user_knowledge"]["coverage"] == {"user.preference": round(10 / 12, 6)}
    assert found["tables"]["item_knowledge"]["coverage"] == {"item.facts": 0.25}
    assert found["data_cutoff"] == "2026-11-03T12:00:00.000000+00:00"
    assert found["id_types"] == {"user": "int64", "item": "string"}
    assert found["release"].startswith("2026-11-03-")


def test_stats_show_missing_share_and_norm(night: Published) -> None:
    stats = json.loads((night.path / "stats.json").read_text())
    covered = world.sides(newest=world.day(0.5))[0].views[0].adapted[[n for n in range(12) if n not in (0, 5)]]
    figures = stats["user.preference"]["adapted"]
    assert figures["missing_share"] == pytest.approx(2 / 12, rel=1e-5)
    assert figures["norm_mean"] == pytest.approx(np.linalg.norm(covered, axis=1).mean(), rel=1e-5)
    assert figures["sample_count"] == 10


def test_current_moves_to_a_newer_night_and_names_the_parent(tmp_path: Path, night: Published) -> None:
    first, second = night, world.publish_day(tmp_path, 1)
    assert (first.is_promoted, second.is_promoted) == (True, True)
    assert kar.release.open(tmp_path).id == second.path.name
    assert second.manifest["parent"] == first.path.name


def test_a_backfill_is_published_without_moving_current_over_a_newer_night(tmp_path: Path) -> None:
    newer = world.publish_day(tmp_path, 5)
    backfill = world.publish_day(tmp_path, 1, published_at=world.day(9), is_reconstructed=True)
    assert (backfill.is_new, backfill.is_promoted) == (True, False)
    assert kar.release.open(tmp_path).id == newer.path.name
    assert kar.release.open(backfill.path, verify=True).manifest["is_reconstructed"]


def test_a_release_that_may_not_be_promoted_leaves_current_alone(tmp_path: Path, night: Published) -> None:
    first = night
    assert not world.publish_day(tmp_path, 1, promote=False).is_promoted
    assert kar.release.open(tmp_path).id == first.path.name


def _claims(cutoff: str | None, date: str, reconstructed: bool = False, published: str = "a") -> dict[str, object]:
    return {"data_cutoff": cutoff, "date": date, "is_reconstructed": reconstructed, "published_at": published}


@pytest.mark.parametrize(
    ("candidate", "current", "moves"),
    [
        (_claims("2026-11-02", "d1"), _claims("2026-11-01", "d2"), True),
        (_claims("2026-11-01", "d9"), _claims("2026-11-02", "d1"), False),
        (_claims("2026-11-01", "d2"), _claims("2026-11-01", "d1"), True),
        (_claims("2026-11-01", "d1"), _claims("2026-11-01", "d2"), False),
        (_claims("2026-11-01", "d1", published="b"), _claims("2026-11-01", "d1"), True),
        (_claims("2026-11-01", "d1", reconstructed=True, published="b"), _claims("2026-11-01", "d1"), False),
        (_claims("2026-11-01", "d1"), _claims(None, "d2"), True),
        (_claims(None, "d2"), _claims("2026-11-01", "d1"), False),
        (_claims(None, "d2"), _claims(None, "d1"), True),
        (_claims("2026-11-01", "d1"), _claims("2026-11-01", "d1"), False),
    ],
)
def test_newer_means_data_cutoff_then_date_then_original_then_publication(
    candidate: dict[str, object], current: dict[str, object], moves: bool
) -> None:
    assert pointer.promotes_over(candidate, current) is moves


def _verdict(*, passed: bool, measured: float | None = 1.0) -> GateVerdict:
    return GateVerdict("rows", measured, 2.0, passed, "said so")


def test_the_gate_sees_the_verified_release_and_the_one_served_and_its_verdicts_are_in_the_manifest(
    tmp_path: Path, night: Published
) -> None:
    asked: list[tuple[str, str | None]] = []

    def gate(new: Release, before: Release | None) -> list[GateVerdict]:
        assert new.vectors("user", "user.preference", [103])[0][0, 0] == 1001.0
        asked.append((new.id, before.id if before else None))
        return [_verdict(passed=True), _verdict(passed=True, measured=float("nan"))]

    done = world.publish_day(tmp_path, 1, gate=gate)
    assert asked == [(done.path.name, night.path.name)]
    assert done.is_promoted
    assert [verdict.is_passed for verdict in done.gate] == [True, True]
    on_disk = kar.release.verify(tmp_path)
    assert [(entry["check"], entry["measured"]) for entry in on_disk["gate"]] == [("rows", 1.0), ("rows", None)]


def test_one_verdict_that_fails_keeps_the_pointer_and_the_release(tmp_path: Path, night: Published) -> None:
    done = world.publish_day(tmp_path, 1, gate=lambda *_: [_verdict(passed=True), _verdict(passed=False)])
    assert (done.is_new, done.is_promoted) == (True, False)
    assert kar.release.open(tmp_path).id == night.path.name
    assert [entry["is_passed"] for entry in kar.release.verify(done.path)["gate"]] == [True, False]


def test_what_the_gate_says_is_no_content_and_a_later_yes_promotes_the_same_release(tmp_path: Path, night: Published) -> None:
    held = world.publish_day(tmp_path, 1, gate=lambda *_: [_verdict(passed=False)])
    again = world.publish_day(tmp_path, 1, gate=lambda *_: [_verdict(passed=True)])
    assert (again.path, again.is_new, again.is_promoted, again.written_bytes) == (held.path, False, True, 0)
    assert again.manifest["gate"][0]["is_passed"] is False


def test_the_gate_of_a_first_release_has_nothing_before_it(tmp_path: Path) -> None:
    before = []
    world.publish_day(tmp_path, 1, gate=lambda _, served: before.append(served) or [])
    assert before == [None]


def test_the_share_of_active_subjects_with_knowledge_is_told_and_no_content(tmp_path: Path) -> None:
    users, items = world.sides()
    is_active = np.zeros(world.USERS, bool)
    is_active[[0, 1, 2, 5]] = True  # 0 and 5 have no knowledge
    done = publish(tmp_path / "a", (replace(users, is_active=is_active), items), world.facts(active_days=30))
    table = done.manifest["tables"]["user_knowledge"]
    assert (table["active_count"], table["covered_active_share"], done.manifest["active_days"]) == (4, 0.5, 30)
    assert done.manifest["tables"]["item_knowledge"]["covered_active_share"] is None
    assert publish(tmp_path / "b", (users, items), world.facts()).path.name == done.path.name


def test_the_age_of_texts_is_counted_in_days_before_the_date(tmp_path: Path) -> None:
    users, items = world.sides()
    asked = [None if n in (0, 5) else world.day(0) - dt.timedelta(days=n) + dt.timedelta(hours=3) for n in range(world.USERS)]
    aged = replace(users.views[0], asked_at=pa.array(asked, layout.TIME))
    done = publish(tmp_path, (replace(users, views=(aged,)), items), world.facts())
    assert done.manifest["age"] == {
        "user.preference": {"1": 1, "2": 1, "3": 1, "4": 1, "6": 1, "7": 5},
        "item.facts": {"0": 5},
    }


def test_a_clock_that_goes_backwards_leaves_the_served_times_in_order(tmp_path: Path) -> None:
    world.publish_day(tmp_path, 0, published_at=world.day(10))
    world.publish_day(tmp_path, 1, published_at=world.day(2))
    since = [entry.since for entry in pointer.read_current(tmp_path).served]
    assert since == [world.day(10), world.day(10)]


def test_a_vector_that_is_not_finite_is_refused_and_nothing_is_published(tmp_path: Path) -> None:
    users, items = world.sides()
    users.views[0].adapted[7, 2] = np.nan
    with pytest.raises(ReleaseError, match="the adapted vector of row 7 is not finite"):
        publish(tmp_path, (users, items), world.facts())
    assert list((tmp_path / "releases").iterdir()) == []
    assert not (tmp_path / "CURRENT").exists()


def test_ids_that_repeat_or_do_not_ascend_are_refused(tmp_path: Path) -> None:
    users, items = world.sides()
    for ids, words in (([100] * 12, "100 occurs twice"), (list(range(12, 0, -1)), "12 is followed by 11")):
        with pytest.raises(ReleaseError, match=f"user ids do not ascend: {words}"):
            publish(tmp_path, (replace(users, ids=pa.array(ids)), items), world.facts())
    with pytest.raises(ReleaseError, match="2 of the user ids are null"):
        publish(tmp_path, (replace(users, ids=pa.array([None, None, *range(10)])), items), world.facts())
    assert not (tmp_path / "releases").exists()


def test_a_missing_row_without_the_default_vector_is_refused(tmp_path: Path) -> None:
    users, items = world.sides()
    users.views[0].adapted[5, 0] = 9.0
    with pytest.raises(ReleaseCorrupt, match="does not hold the default vector"):
        publish(tmp_path, (users, items), world.facts())


def test_columns_of_different_length_are_refused_by_name(tmp_path: Path) -> None:
    users, items = world.sides()
    short = replace(users.views[0], origin=pa.array(["tonight"]))
    with pytest.raises(ReleaseError, match=r"view user.preference: 12 ids, but \{'origin': 1\}"):
        publish(tmp_path, (replace(users, views=(short,)), items), world.facts())


@pytest.mark.parametrize("view", ["preference", "user.Preference", "user.a b", "shop.facts", "user.a/b"])
def test_a_view_that_cannot_name_a_column_is_refused(tmp_path: Path, view: str) -> None:
    users, items = world.sides()
    with pytest.raises(ReleaseError, match="cannot be a published view"):
        publish(tmp_path, (replace(users, views=(replace(users.views[0], view=view),)), items), world.facts())


def test_a_side_without_views_still_has_a_row_for_every_subject(tmp_path: Path) -> None:
    users, items = world.sides()
    publish(tmp_path, (replace(users, views=()), items), world.facts())
    release = kar.release.open(tmp_path, verify=True)
    assert release.views("user") == []
    assert len(release.ids("user")) == world.USERS
    assert release.data_cutoff is None  # the prompts about items saw no interaction


def test_a_side_without_rows_can_be_published_and_asked(tmp_path: Path) -> None:
    users, _ = world.sides()
    none = world.view_rows("item.facts", 0, missing=set(), newest=None)
    publish(tmp_path, (users, SideRows("item", pa.array([], pa.string()), (none,))), world.facts())
    release = kar.release.open(tmp_path, verify=True)
    vectors, is_missing = release.vectors("item", "item.facts", ["i00"])
    assert vectors.tolist() == [[0.5] * world.A]
    assert is_missing.tolist() == [True]


def test_what_a_dead_publisher_left_is_removed_by_the_next(tmp_path: Path) -> None:
    left = tmp_path / "releases" / ".0123456789ab.partial"
    left.mkdir(parents=True)
    (left / "manifest.json").write_text("{}")
    world.publish_day(tmp_path, 0)
    assert [p.name for p in (tmp_path / "releases").iterdir() if p.name.startswith(".")] == []


def test_a_damaged_release_of_the_same_content_is_named_and_not_used_again(tmp_path: Path, night: Published) -> None:
    (night.path / "stats.json").write_text("{}")
    with pytest.raises(ReleaseCorrupt, match=r"stats.json: bytes should be"):
        world.publish_day(tmp_path, 0)


def test_a_full_disk_is_a_named_error_and_leaves_nothing_behind(tmp_path: Path, night: Published) -> None:
    script = (
        "import resource, sys, pathlib\n"
        "from kar.errors import ReleaseError\n"
        "from tests.release import world\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "try:\n    world.publish_day(pathlib.Path(sys.argv[1]), 1)\n"
        "except ReleaseError as error:\n    print(error)\n"
    )
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "nothing was published in" in done.stdout
    assert "File too large" in done.stdout
    assert len(list((tmp_path / "releases").iterdir())) == 1
    assert kar.release.open(tmp_path, verify=True).manifest["date"] == "2026-11-01"


def test_times_without_a_zone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="has no time zone"):
        publish(tmp_path, world.sides(), world.facts(published_at=dt.datetime(2026, 11, 2)))
