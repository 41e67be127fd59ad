"""The pooled history vectors of a release: what they hold, what they have seen, and whom a join serves with them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import kar.release
from kar import flow, run
from kar.errors import ReleaseCorrupt, ReleaseError
from kar.model import checkpoint
from kar.model.knowledge import attach, read
from kar.model.ranker import build
from kar.release import manifest
from kar.settings import AdaptorSettings
from kar.stages import features
from kar.store import Home, Inputs, Manifest, Output
from kar.tables import TABLES, IdTypes
from tests.model.conftest import CAP, make_world, small_settings
from tests.stages.test_features import CUTOFF, DATE, KNOWLEDGE, NOW, VECTORS, Scene, _knowledge, _settings, _vector

TICK = dt.timedelta(microseconds=1)
Z, A = [9.0, 8.0, 7.0], [1.0, 0.0, 2.0]
DEFAULT = [0.75] * 3
LIKED, DISLIKED = "user.liked_facts", "user.disliked_facts"


def before(hours: float) -> dt.datetime:
    return CUTOFF - dt.timedelta(hours=hours)


def event(user: int, item: str, hours: float, rating: float | None) -> dict[str, Any]:
    """An event so many hours before the cutoff."""
    return {"user_id": user, "item_id": item, "event_at": before(hours), "tie_key": 0, "rating": rating, "click": None, "text": None}


EVENTS = [
    *(event(10, "Z", 5, 5.0), event(10, "a", 4, 4.0), event(10, "ü 1", 3, 5.0), event(10, "Z", 2, 1.0)),
    *(event(2, "a", 9, 4.0), event(2, "Z", 8, 5.0), event(2, "a", 7, 5.0)),
    *(event(7, "ü 1", 6, 5.0), event(7, "a", 5, None)),
]


def scene_with(root: Path, events: list[dict[str, Any]] = EVENTS, **sections: dict[str, Any]) -> Scene:
    """Items Z and a have facts, ü 1 has none; user 33 did nothing."""
    scene = Scene(root, _settings(**sections))
    scene.sources(events)
    scene.write("knowledge", knowledge=[*KNOWLEDGE, _knowledge("item.facts", "a", before(100))])
    scene.write("vectors", knowledge_vector=[*VECTORS[:3], _vector("item.facts", "a", [1, -4, 2, 0, 0]), VECTORS[3]])
    return scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return scene_with(tmp_path)


def means(scene: Scene, view: str) -> dict[int, tuple[list[float], bool]]:
    """User → vector and whether it is missing."""
    release = scene.release()
    vectors, is_missing = release.vectors("user", view, [2, 7, 10, 33])
    return dict(zip([2, 7, 10, 33], zip(vectors.tolist(), is_missing.tolist(), strict=True), strict=True))


def newest(scene: Scene, view: str) -> dict[int, dt.datetime | None]:
    column = f"{view.partition('.')[2]}_evidence_newest_at"
    return {row["user_id"]: row[column] for row in scene.release().table("user", ["user_id", column]).to_pylist()}


def test_liked_and_disliked_items_with_knowledge_are_averaged_apart(scene: Scene) -> None:
    scene.publish()
    liked, disliked = means(scene, LIKED), means(scene, DISLIKED)
    assert liked[10] == ([5.0, 4.0, 4.5], False)  # Z and a; ü 1 has no facts, the second Z was disliked
    assert disliked[10] == (Z, False)
    assert liked[2][0] == pytest.approx([(2 * a + z) / 3 for a, z in zip(A, Z, strict=True)])  # a was met twice and counts twice
    assert disliked[2] == (DEFAULT, True)


def test_without_an_event_of_an_item_with_knowledge_the_learned_default_stands(scene: Scene) -> None:
    scene.publish()
    for view in (LIKED, DISLIKED):
        found = means(scene, view)
        assert found[7] == (DEFAULT, True)  # liked what has no facts, and said nothing of the other
        assert found[33] == (DEFAULT, True)
        assert newest(scene, view)[7] is None


def test_only_the_newest_events_that_the_published_base_sees_are_looked_at(tmp_path: Path) -> None:
    scene = scene_with(tmp_path, adaptor={"history_events": 2})
    scene.publish()
    assert means(scene, LIKED)[10] == (DEFAULT, True)  # ü 1 and the disliked Z are the two
    assert means(scene, DISLIKED)[10] == (Z, False)
    assert means(scene, LIKED)[2][0] == pytest.approx([5.0, 4.0, 4.5])


def test_an_event_at_or_after_the_cutoff_changes_no_byte(tmp_path: Path) -> None:
    late = [event(10, "a", 0, 5.0), event(33, "Z", -1, 5.0), event(2, "Z", -0.001, 1.0)]
    first, second = scene_with(tmp_path / "one"), scene_with(tmp_path / "two", [*EVENTS, *late])
    first.publish()
    second.publish()
    for name in ("user_knowledge/part-00-0.parquet", "users.liked_facts.adapted-00-0.npy", "users.disliked_facts.adapted-00-0.npy"):
        assert (first.release().path / name).read_bytes() == (second.release().path / name).read_bytes()
    assert first.release().data_cutoff == second.release().data_cutoff


def test_an_event_just_before_the_cutoff_changes_the_mean_and_the_evidence(tmp_path: Path) -> None:
    scene = scene_with(tmp_path, [*EVENTS, event(33, "Z", 0, 5.0) | {"event_at": CUTOFF - TICK}])
    row, _ = scene.publish()
    assert means(scene, LIKED)[33] == (Z, False)
    assert newest(scene, LIKED)[33] == row["data_cutoff"] == CUTOFF - TICK


def test_the_evidence_is_the_newest_event_of_the_history_though_another_label_or_item_has_it(scene: Scene) -> None:
    row, _ = scene.publish()
    assert newest(scene, LIKED) == {2: before(7), 7: None, 10: before(2), 33: None}  # user 10: the disliked Z is the newest
    assert newest(scene, DISLIKED) == {2: None, 7: None, 10: before(2), 33: None}
    assert row["data_cutoff"] == before(1)  # of user 2's preference: the release's own


def test_what_the_items_texts_have_seen_is_evidence_too(scene: Scene) -> None:
    scene.write("knowledge", knowledge=[*KNOWLEDGE, _knowledge("item.facts", "a", before(0.5))])
    row, _ = scene.publish()
    assert newest(scene, LIKED) == {2: before(0.5), 7: None, 10: before(0.5), 33: None}
    assert newest(scene, DISLIKED)[10] == before(2)  # a is not in it
    assert row["data_cutoff"] == before(0.5)


def test_in_per_user_mode_the_history_is_what_the_prompts_may_know_of(tmp_path: Path) -> None:
    scene = scene_with(tmp_path, histories={"mode": "per_user", "cap": 30})
    scene.publish()
    assert means(scene, LIKED)[10] == ([5.0, 4.0, 4.5], False)  # the first two of four
    assert means(scene, DISLIKED)[10] == (DEFAULT, True)
    assert newest(scene, LIKED)[10] == before(4)


def test_a_row_says_that_it_is_pooled_and_when_its_newest_text_was_written(scene: Scene) -> None:
    asked = NOW - dt.timedelta(days=3)
    scene.write("knowledge", knowledge=[*KNOWLEDGE, _knowledge("item.facts", "a", None) | {"asked_at": asked}])
    scene.publish()
    rows = {row["user_id"]: row for row in scene.release().table("user").to_pylist()}
    assert [rows[10][f"liked_facts_{name}"] for name in ("origin", "model", "asked_at")] == ["pooled", None, NOW]
    assert [rows[7][f"liked_facts_{name}"] for name in ("origin", "model", "asked_at")] == [None, None, None]
    found = scene.release().manifest["views"][LIKED]
    assert found["pooled_from"] == {"view": "item.facts", "label": "liked", "history_events": 30}


@pytest.mark.parametrize(
    ("sections", "is_there"),
    [
        ({}, True),
        ({"adaptor": {"history_knowledge": False}}, False),
        ({"adaptor": {"history_knowledge": False}, "features": {"history_vectors": True}}, True),
        ({"features": {"history_vectors": False}}, False),
    ],
)
def test_they_are_published_where_the_settings_ask_for_them(tmp_path: Path, sections: dict[str, Any], is_there: bool) -> None:
    scene = scene_with(tmp_path, **sections)
    scene.publish()
    assert (LIKED in scene.release().views("user")) is is_there


def test_coverage_and_space_are_those_of_the_knowledge_that_somebody_wrote(tmp_path: Path) -> None:
    scene, without = scene_with(tmp_path / "with"), scene_with(tmp_path / "without", features={"history_vectors": False})
    row, out = scene.publish()
    other, _ = without.publish()
    assert row["user_covered_share"] == other["user_covered_share"] == 0.5
    assert row["space_id"] == other["space_id"]
    assert out.figures["covered_share"][LIKED] == 0.5


def test_a_factors_view_is_pooled_as_any(tmp_path: Path) -> None:
    views = ["item.facts", "item.facts:mood"]
    scene = scene_with(tmp_path, adaptor={"item_views": views}, vectors={"per_factor": ["item.facts"]})
    scene.checkpoint.views = {"user": ["user.preference"], "item": views}
    scene.write("vectors", knowledge_vector=[*VECTORS, _vector("item.facts:mood", "Z", [1, 1, 2, 0, 0])])
    scene.publish()
    assert means(scene, "user.liked_facts:mood")[10] == ([1.0, 1.0, 2.0], False)
    assert "liked_facts_mood_adapted_vector" in scene.release().table("user").column_names


# ---- reading them


def joined(scene: Scene, times: list[dt.datetime], user: int = 10, clock: Any = "evidence") -> kar.release.Joined:
    examples = pa.table(
        {"user_id": [user] * len(times), "item_id": ["a"] * len(times), "event_at": pa.array(times, pa.timestamp("us", "UTC"))}
    )
    return kar.release.join(scene.home.published, examples, clock=clock)


def test_a_join_serves_them_only_where_every_pooled_event_is_older_than_the_example(scene: Scene) -> None:
    scene.publish()
    found = joined(scene, [before(3), before(2) - TICK, before(2), before(2) + TICK])  # the newest event is of hour 2
    vectors, is_missing = found.vectors("user", LIKED)
    assert is_missing.tolist() == [True, True, True, False]  # at its very instant the example may be that event
    assert vectors.tolist() == [DEFAULT, DEFAULT, DEFAULT, [5.0, 4.0, 4.5]]


def test_of_a_prompts_evidence_the_same_instant_is_allowed(scene: Scene) -> None:
    scene.publish()
    day = CUTOFF - dt.timedelta(days=1)
    assert joined(scene, [day - TICK, day]).is_missing("user", "user.preference").tolist() == [True, False]


def test_by_the_published_clock_nothing_is_served_before_it_was_there(scene: Scene) -> None:
    scene.publish()
    assert joined(scene, [NOW - TICK, NOW], clock="published").is_missing("user", DISLIKED).tolist() == [True, False]


def test_they_have_no_knowledge_vectors_and_a_reader_is_told_so(scene: Scene) -> None:
    scene.publish()
    release, found = scene.release(), joined(scene, [NOW])
    assert release.views("user", kind="knowledge") == found.views("user", kind="knowledge") == ["user.preference"]
    assert not (release.path / "users.liked_facts.knowledge-00-0.npy").exists()
    for ask in (release.vectors, found.vectors):
        with pytest.raises(ReleaseError, match=r"user\.liked_facts is pooled from adapted vectors and has no knowledge vectors"):
            ask("user", LIKED, *([[10]] if ask == release.vectors else []), kind="knowledge")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found["views"][LIKED]["pooled_from"].update(view="item.tags"), "pooled from item.tags, no item view here"),
        (lambda found: found["views"][LIKED]["default_adapted_vector"].__setitem__(0, 0.5), "the default vector|default_adapted_vector"),
    ],
)
def test_an_audit_finds_a_pooled_view_that_is_not_of_its_items(scene: Scene, change: Callable[[Any], Any], words: str) -> None:
    scene.publish()
    path = scene.release().path
    found = json.loads((path / "manifest.json").read_text())
    change(found)
    found["release"] = manifest.release_id(found)
    (path / "manifest.json").write_bytes(manifest.to_bytes(found))
    path = path.rename(path.with_name(found["release"]))
    with pytest.raises(ReleaseCorrupt, match=words):
        kar.release.verify(path)


# ---- against the ranker itself


@pytest.mark.parametrize(("is_text", "residual_gate"), [(False, False), (True, False), (False, True)])
def test_the_published_mean_is_the_rankers_own_for_an_example_at_that_time(tmp_path: Path, is_text: bool, residual_gate: bool) -> None:
    """Each user's last event is the example, the events before it are the release's; the same checkpoint adapts both."""
    world, ours = _world(is_text), small_settings(history_events=4, residual_gate=residual_gate)
    last = world.example.group_by("user_id").aggregate([("position", "max")]).rename_columns(["user_id", "position"])
    at_end = world.example.join(last, ["user_id", "position"], join_type="inner").sort_by("example_id")["example_id"].to_numpy().copy()
    data = world.load(ours)
    kinds = _kinds(world, data)
    ranker = build("fibinet", data, kinds, 16, ours, seed=3).eval()
    assert ranker.adaptor is not None
    for parameter in ranker.adaptor.parameters():  # the learned default, and the residual gate
        if not parameter.any():
            torch.nn.init.uniform_(parameter, 0.1, 0.9)

    release = _published(tmp_path, world, last, ranker, ours, IdTypes("string", "string") if is_text else IdTypes())

    with torch.inference_mode():
        batch = data.batch(torch.from_numpy(at_end), kinds)
        (history,) = ranker.adapt(batch).history
    users = data.user_ids.take(pa.array(data.user_E[at_end]))
    missing = 0
    for view, mean in zip((LIKED, DISLIKED), history.means(batch), strict=True):
        vectors, is_missing = release.vectors("user", view, users)
        np.testing.assert_allclose(vectors, mean.numpy(), rtol=0, atol=1e-6)
        missing += int(is_missing.sum())
    assert 0 < missing < len(at_end)


def _world(is_text: bool) -> Any:
    """The small world; with text ids its vectors are named by them too."""
    world = make_world(is_text=is_text)
    if not is_text:
        return world
    table, start = world.knowledge_vector, {"user": "user 🙂 ", "item": "item é "}
    rows = zip(table["view"].to_pylist(), table["subject_id"].to_pylist(), strict=True)
    names = pa.array([f"{start[view.partition('.')[0]]}{int(subject):04d}" for view, subject in rows])
    return world.having(knowledge_vector=table.set_column(table.column_names.index("subject_id"), "subject_id", names))


def _kinds(world: Any, data: Any) -> list[Any]:
    views: list[tuple[str, Any]] = [("user.preference", "user"), ("item.facts", "item")]
    return [attach(data, view, side, read(world.knowledge_vector, view), 16, None, None, in_history=True) for view, side in views]


def _published(root: Path, world: Any, last: pa.Table, ranker: Any, ours: AdaptorSettings, ids: IdTypes) -> kar.release.Release:
    """The world's sources without each user's last event, its knowledge and the ranker's checkpoint, published."""
    home, folder = Home.of("small", root), Home.of("small", root).partition("adaptor", DATE).path / "checkpoints" / "fibinet"
    kept = world.sequence.join(last, ["user_id", "position"], join_type="left anti")
    count, knowledge = kept.num_rows, world.knowledge_vector.num_rows
    interaction = pa.table(
        {
            **{name: kept[name] for name in ("user_id", "item_id", "event_at", "rating")},
            "tie_key": pa.array([0] * count, pa.int64()),
            "click": pa.nulls(count, pa.bool_()),
            "text": pa.nulls(count, pa.string()),
        }
    )
    items = world.example_item["item_id"]
    item = pa.table({"item_id": items, "title": pa.nulls(len(items), pa.string()), "description": pa.nulls(len(items), pa.string())})
    vectors = world.knowledge_vector
    written = [_knowledge(v, s, None) for v, s in zip(vectors["view"].to_pylist(), vectors["subject_id"].to_pylist(), strict=True)]
    vectors = (
        vectors.append_column("text_sha", pa.array([""] * knowledge))
        .append_column("n_tokens", pa.array([1] * knowledge, pa.int32()))
        .append_column("truncated", pa.array([False] * knowledge))
    )
    tables = {
        "sources": {"user": pa.table({"user_id": last["user_id"]}), "item": item, "interaction": interaction},
        "knowledge": {"knowledge": pa.Table.from_pylist(written, schema=TABLES["knowledge"].schema(ids))},
        "vectors": {"knowledge_vector": vectors},
        "adaptor": {"comparison": pa.Table.from_pylist([], schema=TABLES["comparison"].schema(ids))},
    }
    for name, made in tables.items():
        partition = home.partition(name, DATE)
        partition.path.mkdir(parents=True, exist_ok=True)
        out = Output(flow.stage_named(name), partition.path, ids)
        for table_name, table in made.items():
            out.write(table_name, table)
        Manifest(name, DATE.isoformat(), f"recipe-{name}", {}, tables=out.tables).write(partition.path)
    origin = checkpoint.Origin(
        *("same_evidence", "fibinet", "knowledge", 3, "hash-16:test"),
        {"user": ["user.preference"], "item": ["item.facts"]},
        ours.recipe(),
        0.5,
        {},
    )
    checkpoint.save(folder, ranker, origin)
    settings = _settings(
        scenario={"name": "small", "domain": "movies", "user_id": ids.user, "item_id": ids.item},
        adaptor=ours.model_dump(mode="json"),
        histories={"cap": CAP},
    )
    inputs = Inputs(flow.FEATURES, DATE, CUTOFF, NOW, home, ids, run.resolve(flow.FEATURES, settings, home, DATE))
    (root / "out").mkdir()
    features.publish_release(inputs, Output(flow.FEATURES, root / "out", ids), settings, checkpoint.load(folder))
    return kar.release.open(home.published, verify=True)
