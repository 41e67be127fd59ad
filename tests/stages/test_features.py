"""The features stage on partitions as the other stages write them, with a small checkpoint that really adapts."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kar.release
from kar import flow, run
from kar.errors import ModelError, NotMade, ReleaseError, SettingsError, SpaceMismatch
from kar.settings import Settings, parse
from kar.stages import features
from kar.store import Home, Inputs, Manifest, Output
from kar.tables import TABLES, IdTypes
from kar.verdict import verdict

DATE = dt.date(2026, 11, 19)
CUTOFF = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
NOW = CUTOFF + dt.timedelta(hours=2)
T, A = 5, 3
USERS = [7, 10, 2, 33]  # not in order, and in another order as texts
ITEMS = ["ü 1", "a", "Z"]


@dataclass
class LinearCheckpoint:
    """Adapts with one matrix per view; lies on disk as the real one does, in a folder of several files."""

    folder: Path
    encoder_id: str = "hash-5"
    views: dict[str, list[str]] = field(default_factory=lambda: {"user": ["user.preference"], "item": ["item.facts"]})

    @classmethod
    def write(cls, folder: Path, scale: float = 1.0, **changed: Any) -> LinearCheckpoint:
        folder.mkdir(parents=True)
        np.save(folder / "adaptor.npy", scale * np.eye(T, A, dtype=np.float32))
        (folder / "checkpoint.json").write_text(json.dumps({"arm": "knowledge", "seed": 1}))
        return cls(folder, **changed)

    @property
    def sha(self) -> str:
        return hashlib.sha256((self.folder / "adaptor.npy").read_bytes()).hexdigest()

    def adapt(self, view: str, vectors_NT: np.ndarray) -> np.ndarray:
        return np.maximum(vectors_NT @ np.load(self.folder / "adaptor.npy"), 0.0)

    def missing(self, view: str) -> np.ndarray:
        return np.full(A, 0.25 if view.startswith("user.") else 0.75, np.float32)


def _settings(**sections: dict[str, Any]) -> Settings:
    base: dict[str, Any] = {
        "scenario": {"name": "small", "domain": "movies", "item_id": "string"},
        "sources": {"interactions": {"path": "x.csv", "format": "csv", "columns": {}}},
    }
    return parse({**base, **sections})


def _knowledge(view: str, subject: str, newest: dt.datetime | None, origin: str = "tonight", model: str = "tiny") -> dict[str, Any]:
    row = {"view": view, "subject_id": subject, "text": "t", "origin": origin, "model": model, "model_revision": "r1"}
    row |= {"template_version": f"{view}@1:abc", "request_key": subject, "evidence_sha": "", "cutoff_at": CUTOFF, "asked_at": NOW}
    return row | {
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "evidence_users": [],
        "evidence_items": [],
        "evidence_newest_at": newest,
        "neighbour_items": [],
    }


def _vector(view: str, subject: str, values: list[float], encoder: str = "hash-5") -> dict[str, Any]:
    return {
        "view": view,
        "subject_id": subject,
        "text_sha": subject,
        "encoder_id": encoder,
        "n_tokens": 3,
        "truncated": False,
        "vector": values,
    }


def _comparison(low: float = 0.01, backbone: str = "fibinet") -> list[dict[str, Any]]:
    rows = []
    for arm_a, arm_b in (("knowledge", "base"), ("knowledge", "text"), ("knowledge", "permuted"), ("text", "base")):
        for metric in ("auc", "logloss"):
            rows.append(
                {
                    "base": "same_evidence",
                    "backbone": backbone,
                    "arm_a": arm_a,
                    "arm_b": arm_b,
                    "slice": "all",
                    "metric": metric,
                    "difference": 0.02,
                    "low": low,
                    "high": 0.03,
                }
                | {"se": 0.005, "p": 0.01, "p_holm": 0.01, "family": "", "family_count": 1, "detectable": 0.014}
                | {"seed_count": 1, "user_count": 4, "example_count": 9, "resamples": 100}
            )
    return rows


KNOWLEDGE = [
    _knowledge("user.preference", "10", CUTOFF - dt.timedelta(days=1)),
    _knowledge("user.preference", "2", CUTOFF - dt.timedelta(hours=1), origin="last_good"),
    _knowledge("item.facts", "Z", None, origin="import", model="big"),
]
VECTORS = [
    _vector("user.preference", "10", [1, 2, 3, 4, 5]),
    _vector("user.preference", "2", [-1, 6, 7, 0, 0]),
    _vector("item.facts", "Z", [9, 8, 7, 6, 5]),
    _vector("item.raw", "a", [1, 1, 1, 1, 1]),
]


class Scene:
    """The partitions that features reads, on disk, and the stage run over them."""

    def __init__(self, root: Path, settings: Settings | None = None) -> None:
        self.home = Home.of("small", root)
        self.settings = settings or _settings()
        self.ids = IdTypes("int", "string")
        self.sources([])
        self.write("knowledge", knowledge=KNOWLEDGE)
        self.write("vectors", knowledge_vector=VECTORS)
        self.write("adaptor", comparison=_comparison())
        self.checkpoint = LinearCheckpoint.write(self.home.partition("adaptor", DATE).path / "checkpoints" / "fibinet")

    def sources(self, interactions: list[dict[str, Any]]) -> None:
        users = [{"user_id": u} for u in USERS]
        items = [{"item_id": i, "title": None, "description": None} for i in ITEMS]
        self.write("sources", user=users, item=items, interaction=interactions)

    def write(self, stage: str, date: dt.date = DATE, **tables: list[dict[str, Any]]) -> None:
        partition = self.home.partition(stage, date)
        partition.path.mkdir(parents=True, exist_ok=True)
        out = Output(flow.stage_named(stage), partition.path, self.ids)
        for name, rows in tables.items():
            types = [("vector", pa.list_(pa.float32(), T))] if name == "knowledge_vector" else None
            table = pa.Table.from_pylist(rows, schema=None if rows else TABLES[name].schema(self.ids))
            for column, kind in types or []:
                table = table.set_column(table.column_names.index(column), column, table.column(column).cast(kind))
            for column in ("evidence_users", "evidence_items"):
                if column in table.column_names:
                    empty = pa.array([[]] * table.num_rows, pa.list_(pa.string()))
                    table = table.set_column(table.column_names.index(column), column, empty)
            out.write(name, table)
        Manifest(stage, date.isoformat(), f"recipe-{stage}", {}, tables=out.tables).write(partition.path)

    def inputs(self, date: dt.date = DATE, as_of: dt.datetime = NOW) -> Inputs:
        partitions = run.resolve(flow.FEATURES, self.settings, self.home, date)
        return Inputs(flow.FEATURES, date, run.cutoff_of(date), as_of, self.home, self.ids, partitions)

    def publish(self, as_of: dt.datetime = NOW) -> tuple[dict[str, Any], Output]:
        folder = self.home.path / "features" / f"made-{as_of.timestamp()}"
        folder.mkdir(parents=True, exist_ok=True)
        out = Output(flow.FEATURES, folder, self.ids)
        features.publish_release(self.inputs(as_of=as_of), out, self.settings, self.checkpoint)
        return pq.read_table(folder / "release.parquet").to_pylist()[0], out

    def release(self) -> kar.release.Release:
        return kar.release.open(self.home.published, verify=True)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_every_user_and_item_of_the_sources_has_a_row_with_its_own_vector(scene: Scene) -> None:
    scene.publish()
    release = scene.release()
    assert release.ids("user").to_pylist() == [2, 7, 10, 33]
    assert release.ids("item").to_pylist() == ["Z", "a", "ü 1"]
    adapted, is_missing = release.vectors("user", "user.preference", [10, 7, 2, 33])
    assert adapted.tolist() == [[1, 2, 3], [0.25] * 3, [0, 6, 7], [0.25] * 3]  # a negative one shows the adaptor's ReLU
    assert is_missing.tolist() == [False, True, False, True]
    knowledge, _ = release.vectors("item", "item.facts", ["Z", "a"], kind="knowledge")
    assert knowledge.tolist() == [[9, 8, 7, 6, 5], [0, 0, 0, 0, 0]]
    assert release.vectors("item", "item.facts", ["Z", "a"])[0].tolist() == [[9, 8, 7], [0.75] * 3]


def test_a_row_says_what_it_has_seen_when_it_was_asked_and_who_wrote_it(scene: Scene) -> None:
    scene.publish()
    users = {row["user_id"]: row for row in scene.release().table("user").to_pylist()}
    assert users[10]["preference_evidence_newest_at"] == CUTOFF - dt.timedelta(days=1)
    assert (users[10]["preference_origin"], users[2]["preference_origin"]) == ("asked", "asked")
    assert users[7]["preference_model"] is None
    items = {row["item_id"]: row for row in scene.release().table("item").to_pylist()}
    assert (items["Z"]["facts_origin"], items["Z"]["facts_model"], items["Z"]["facts_asked_at"]) == ("import", "big", NOW)
    assert items["Z"]["facts_evidence_newest_at"] is None


def test_the_manifest_says_what_the_night_and_the_published_answers_cost(scene: Scene) -> None:
    figures = {"calls": 2, "from_ledger": 1, "prompt_tokens": 90, "completion_tokens": 30, "lost_tokens": 4, "usd": 0.5}
    partition = scene.home.partition("knowledge", DATE)
    manifest = Manifest.read(partition.manifest_path)
    manifest.figures |= {**figures, "usd_per_million_tokens": {"prompt": 1_000_000.0, "completion": 2_000_000.0}}
    manifest.write(partition.path)
    scene.publish()
    cost = scene.release().manifest["cost"]
    night = {"requests": 2, "from_ledger": 1, "prompt_tokens": 90, "completion_tokens": 30, "lost_tokens": 4, "usd": 0.5}
    assert cost["night"] == night
    assert cost["published"] == {"requests": 2, "prompt_tokens": 2, "completion_tokens": 2, "usd": 6.0}  # the import cost nothing


def test_cost_that_nobody_told_is_null(scene: Scene) -> None:
    scene.publish()
    cost = scene.release().manifest["cost"]
    assert set(cost["night"].values()) == {None}
    assert cost["published"]["usd"] is None


def test_active_subjects_are_those_with_an_interaction_in_the_last_days_before_the_cutoff(scene: Scene) -> None:
    def event(user: int, item: str, days: float) -> dict[str, Any]:
        at = CUTOFF - dt.timedelta(days=days)
        return {"user_id": user, "item_id": item, "event_at": at, "tie_key": 1, "rating": 5.0, "click": None, "text": None}

    known = {10, 2}  # of the users; of the items Z
    scene.sources([event(10, "a", 1), event(7, "a", 29), event(2, "Z", 31), event(33, "Z", -0.5)])
    _, out = scene.publish()
    tables = scene.release().manifest["tables"]
    users, items = tables["user_knowledge"], tables["item_knowledge"]
    assert (users["active_count"], users["covered_active_share"]) == (2, len({10, 7} & known) / 2)
    assert (items["active_count"], items["covered_active_share"]) == (1, 0.0)
    assert out.figures["covered_active_share"] == {"user": 0.5, "item": 0.0}


def test_a_text_that_the_budget_left_unrenewed_carries_its_age_into_the_release(scene: Scene) -> None:
    asked, seen = NOW - dt.timedelta(days=40), CUTOFF - dt.timedelta(days=41)
    old = _knowledge("user.preference", "2", seen, origin="last_good") | {"asked_at": asked}
    scene.write("knowledge", knowledge=[KNOWLEDGE[0], old, KNOWLEDGE[2]])
    scene.publish()
    users = {row["user_id"]: row for row in scene.release().table("user").to_pylist()}
    told = {user: (users[user]["preference_asked_at"], users[user]["preference_evidence_newest_at"]) for user in (2, 7, 10)}
    assert told == {2: (asked, seen), 7: (None, None), 10: (NOW, CUTOFF - dt.timedelta(days=1))}


def test_the_release_row_and_the_manifest_agree(scene: Scene) -> None:
    row, out = scene.publish()
    release = scene.release()
    assert row["release_id"] == release.id == out.figures["release_id"]
    assert row["space_id"] == release.space_id
    assert row["data_cutoff"] == release.data_cutoff == CUTOFF - dt.timedelta(hours=1)
    assert row["published_at"] == release.published_at == NOW
    assert (row["is_promoted"], row["is_reconstructed"]) == (True, False)
    assert (row["user_count"], row["item_count"]) == (4, 3)
    assert (row["user_covered_share"], row["item_covered_share"]) == (0.5, pytest.approx(1 / 3, abs=1e-6))
    assert row["manifest_sha"] == hashlib.sha256((release.path / "manifest.json").read_bytes()).hexdigest()
    assert out.rejected == {}


def test_the_manifest_binds_checkpoint_templates_models_inputs_and_uplift(scene: Scene) -> None:
    scene.publish()
    found = scene.release().manifest
    assert found["adaptor"]["sha"] == scene.checkpoint.sha
    assert found["adaptor"]["backbone"] == "fibinet"
    assert set(found["adaptor"]["files"]) == {"adaptor.npy", "checkpoint.json"}
    assert found["templates"] == {"item.facts": {"item.facts@1:abc": 1}, "user.preference": {"user.preference@1:abc": 2}}
    assert [(m["view"], m["model"], m["origin"], m["count"]) for m in found["models"]] == [
        ("item.facts", "big", "import", 1),
        ("user.preference", "tiny", "last_good", 1),
        ("user.preference", "tiny", "tonight", 1),
    ]
    assert found["inputs"]["vectors"] == {"date": "2026-11-19", "recipe_sha": "recipe-vectors"}
    assert set(found["inputs"]) == {"sources", "knowledge", "vectors", "adaptor"}
    assert [(u["arm_b"], u["difference"], u["low"], u["high"]) for u in found["uplift"]] == [
        (arm, 0.02, 0.01, 0.03) for arm in ("base", "permuted", "text")
    ]


def test_an_uplift_that_is_not_defined_is_null(scene: Scene) -> None:
    scene.write("adaptor", comparison=_comparison(low=float("nan")))
    scene.publish()
    assert {row["low"] for row in scene.release().manifest["uplift"]} == {None}


def test_the_same_night_again_is_the_same_release(scene: Scene) -> None:
    first, _ = scene.publish()
    second, out = scene.publish(as_of=NOW + dt.timedelta(hours=3))
    assert second == first
    assert out.figures["is_new"] is False


def test_a_night_without_news_publishes_the_same_tables(scene: Scene) -> None:
    scene.publish()
    before = scene.release()
    scene.write("knowledge", knowledge=[{**row, "origin": "import" if row["origin"] == "import" else "last_good"} for row in KNOWLEDGE])
    scene.publish(as_of=NOW + dt.timedelta(hours=3))
    after = scene.release()
    for name in ("user_knowledge/part-00-0.parquet", "item_knowledge/part-00-0.parquet", "users.preference.adapted-00-0.npy"):
        assert (after.path / name).read_bytes() == (before.path / name).read_bytes()


def test_another_checkpoint_is_another_space(scene: Scene) -> None:
    first, _ = scene.publish()
    scene.checkpoint = LinearCheckpoint.write(scene.checkpoint.folder.with_name("other"), scale=2.0)
    second, _ = scene.publish()
    assert first["space_id"] != second["space_id"]
    assert first["release_id"] != second["release_id"]


@pytest.mark.parametrize(("late", "is_reconstructed"), [(dt.timedelta(days=2), False), (dt.timedelta(days=2, seconds=1), True)])
def test_a_release_made_more_than_two_days_after_its_date_is_reconstructed(
    scene: Scene, late: dt.timedelta, is_reconstructed: bool
) -> None:
    assert scene.publish(as_of=CUTOFF + late)[0]["is_reconstructed"] is is_reconstructed


def test_vectors_of_another_encoder_are_refused(scene: Scene) -> None:
    scene.write("vectors", knowledge_vector=[*VECTORS[:2], {**VECTORS[2], "encoder_id": "hash-6"}])
    with pytest.raises(SpaceMismatch, match=r"encoded by \['hash-6'\], the checkpoint was trained on hash-5"):
        scene.publish()
    assert not scene.home.published.exists()


def test_vectors_of_another_encoder_in_a_view_that_is_not_published_do_no_harm(scene: Scene) -> None:
    scene.write("vectors", knowledge_vector=[*VECTORS[:3], {**VECTORS[3], "encoder_id": "hash-6"}])
    assert scene.publish()[0]["is_promoted"]


def test_a_view_that_the_checkpoint_does_not_know_is_refused(scene: Scene) -> None:
    scene.settings = _settings(adaptor={"user_views": ["user.preference", "user.mood"]})
    with pytest.raises(ModelError, match=r"was not trained on \['user.mood'\]"):
        scene.publish()


def test_a_vector_without_knowledge_is_refused_for_nobody_knows_what_it_has_seen(scene: Scene) -> None:
    scene.write("knowledge", knowledge=KNOWLEDGE[1:])
    with pytest.raises(ModelError, match=r"1 vectors of user.preference have no knowledge row"):
        scene.publish()


def test_knowledge_that_could_not_be_encoded_is_missing_with_all_that_is_said_of_it(scene: Scene) -> None:
    scene.write("vectors", knowledge_vector=VECTORS[1:])
    scene.publish()
    user = scene.release().table("user").to_pylist()[2]
    assert (user["user_id"], user["preference_is_missing"]) == (10, True)
    assert {user[f"preference_{column}"] for column in ("evidence_newest_at", "asked_at", "origin", "model")} == {None}


def test_knowledge_of_a_subject_that_left_the_sources_is_not_published_and_counted(scene: Scene) -> None:
    scene.write("knowledge", knowledge=[*KNOWLEDGE, _knowledge("user.preference", "99", None)])
    scene.write("vectors", knowledge_vector=[*VECTORS, _vector("user.preference", "99", [1, 1, 1, 1, 1])])
    _, out = scene.publish()
    assert out.warnings == ["1 subjects with knowledge of user.preference are not in the sources and are not published"]


def test_a_night_without_any_vectors_publishes_everybody_as_missing(scene: Scene) -> None:
    scene.write("knowledge", knowledge=KNOWLEDGE[2:])
    scene.write("vectors", knowledge_vector=VECTORS[2:])
    row, _ = scene.publish()
    assert (row["user_covered_share"], row["data_cutoff"]) == (0.0, None)
    assert scene.release().is_missing("user", "user.preference").all()


@pytest.mark.parametrize(("low", "is_promoted"), [(0.001, True), (0.0, False), (-0.01, False), (float("nan"), False)])
def test_the_gate_promotes_only_what_the_verdict_calls_help(scene: Scene, low: float, is_promoted: bool) -> None:
    scene.settings = _settings(features={"require_uplift": True})
    scene.write("adaptor", comparison=_comparison(low=low))
    row, out = scene.publish()
    assert row["is_promoted"] is is_promoted
    assert bool(out.warnings) is not is_promoted
    assert len(kar.release.list_releases(scene.home.published)) == 1  # published in any case
    if not is_promoted:
        assert out.warnings[0].startswith("published but not promoted: ")
        assert verdict(_comparison(low=low), "fibinet", "same_evidence").sentence in out.warnings[0]


def test_the_gate_does_not_take_data_for_knowledge(scene: Scene) -> None:
    scene.settings = _settings(features={"require_uplift": True}, adaptor={"bases": ["thin"], "published_base": "thin"})
    scene.write("adaptor", comparison=[row | {"base": "thin"} for row in _comparison(low=0.01)])
    row, out = scene.publish()
    assert not row["is_promoted"]
    assert out.warnings[0].endswith("an uplift over it is one from data, not from knowledge.")


def test_the_gate_looks_at_the_published_backbone_only(scene: Scene) -> None:
    scene.settings = _settings(features={"require_uplift": True})
    scene.write("adaptor", comparison=[*_comparison(low=0.5, backbone="din"), *_comparison(low=-0.5)])
    assert not scene.publish()[0]["is_promoted"]


def test_settings_can_forbid_promotion(scene: Scene) -> None:
    scene.settings = _settings(features={"promote": False})
    row, out = scene.publish()
    assert row["is_promoted"] is False
    assert out.warnings == []


def test_the_files_of_the_checkpoint_join_the_recipe(scene: Scene) -> None:
    assert [path.name for path in features.files(scene.settings, scene.inputs())] == ["adaptor.npy", "checkpoint.json"]


def test_a_training_without_a_checkpoint_says_what_to_run(scene: Scene) -> None:
    scene.settings = _settings(adaptor={"published_backbone": "din"})
    with pytest.raises(NotMade, match=r"checkpoint of din[\s\S]*do: train with the arm knowledge: kar run adaptor --date 2026-11-19"):
        features.files(scene.settings, scene.inputs())


# ---- a factor as a view


def _factor_scene(root: Path) -> Scene:
    """item.facts:mood is published; its knowledge row is that of item.facts."""
    scene = Scene(root, _settings(adaptor={"item_views": ["item.facts", "item.facts:mood"]}, vectors={"per_factor": ["item.facts"]}))
    scene.checkpoint.views = {"user": ["user.preference"], "item": ["item.facts", "item.facts:mood"]}
    scene.write("vectors", knowledge_vector=[*VECTORS, _vector("item.facts:mood", "Z", [1, 1, 2, 0, 0])])
    return scene


def test_a_factor_is_published_as_a_view_beside_the_whole(tmp_path: Path) -> None:
    scene = _factor_scene(tmp_path)
    scene.publish()
    release = scene.release()
    assert release.views("item") == ["item.facts", "item.facts:mood"]
    adapted, is_missing = release.vectors("item", "item.facts:mood", ["Z", "a"])
    assert adapted.tolist() == [[1, 1, 2], [0.75] * 3]
    assert is_missing.tolist() == [False, True]
    row = next(row for row in release.table("item").to_pylist() if row["item_id"] == "Z")
    assert (row["facts_mood_origin"], row["facts_mood_model"], row["facts_mood_asked_at"]) == ("import", "big", NOW)
    assert not [path.name for path in release.path.iterdir() if ":" in path.name]


def test_a_factor_and_a_view_of_the_same_column_are_refused(tmp_path: Path) -> None:
    scene = _factor_scene(tmp_path)
    views = ["item.facts:mood", "item.facts_mood"]
    scene.settings = _settings(adaptor={"item_views": views}, vectors={"per_factor": ["item.facts"]})
    scene.checkpoint.views = {"user": ["user.preference"], "item": views}
    with pytest.raises(ReleaseError, match="same column twice"):
        scene.publish()


def test_the_adaptor_takes_no_factor_that_nobody_encodes() -> None:
    with pytest.raises(SettingsError, match=r"vectors\.per_factor does not name item\.facts"):
        _settings(adaptor={"item_views": ["item.facts:mood"]})
