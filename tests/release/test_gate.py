"""The promotion gate: each check with a release that must fail it and one that just passes."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import kar.release
from kar.release.gate import Refused, Told, Uplift, judge
from kar.release.limits import Limits
from kar.release.publish import publish
from kar.release.reader import Release
from kar.release.rows import Pooled, SideRows, ViewRows
from kar.release.verdicts import GateVerdict
from kar.settings.schema import PromotionSettings
from tests.release import world

N, W, K = 60, 4, 6
ASKED = world.DAY
LIMITS = Limits(**PromotionSettings().model_dump())


def _times(values: list[dt.datetime | None]) -> pa.Array:
    return pa.array(values, pa.timestamp("us", tz="UTC"))


def view(name: str, seed: int = 0, count: int = N, known: int = 50, asked: dt.datetime = ASKED) -> ViewRows:
    """Random vectors of a healthy spread; the first `known` subjects have knowledge, asked at `asked` of one model."""
    draw = np.random.default_rng(seed)
    is_missing = np.arange(count) >= known
    adapted, knowledge = (draw.normal(0.5, 1.0, (count, width)).astype(np.float32) for width in (W, K))
    default = np.full(W, 0.5, np.float32)
    adapted[is_missing], knowledge[is_missing] = default, 0.0
    told = [None if m else "x" for m in is_missing]
    return ViewRows(
        view=name,
        is_missing=is_missing,
        adapted=adapted,
        knowledge=knowledge,
        default=default,
        evidence_newest_at=_times([None] * count),
        asked_at=_times([None if m else asked for m in is_missing]),
        origin=pa.array(["asked" if t else None for t in told], pa.string()),
        model=pa.array(["tiny" if t else None for t in told], pa.string()),
    )


def sides(items: ViewRows | None = None, ids: pa.Array | None = None) -> tuple[SideRows, SideRows]:
    facts = items or view("item.facts")
    own = ids if ids is not None else pa.array(np.arange(100, 100 + len(facts.is_missing)))
    return SideRows("user", pa.array(np.arange(N)), (view("user.preference", seed=1),)), SideRows("item", own, (facts,))


class Shop:
    """A published folder with one release, and the gate's word on the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = self.open(sides(), 0)

    def open(self, rows: tuple[SideRows, SideRows], day: int, adaptor: str = "a" * 64) -> Release:
        facts = world.facts(world.day(day), adaptor={"sha": adaptor})
        return kar.release.open(publish(self.folder, rows, facts, promote=False).path)

    def verdict(self, check: str, items: ViewRows, *, ids: pa.Array | None = None, adaptor: str = "a" * 64, **limits: Any) -> GateVerdict:
        return named(check, judge(self.open(sides(items, ids), 1, adaptor), self.before, replace(LIMITS, **limits), Told()))


def named(check: str, verdicts: tuple[GateVerdict, ...]) -> GateVerdict:
    (found,) = [v for v in verdicts if v.check == check]
    return found


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def changed(rows: ViewRows, where: Any, adapted: np.ndarray, asked: dt.datetime | None = None) -> ViewRows:
    """The rows with other adapted vectors in some places, and there, if said, another asked_at."""
    other = rows.adapted.copy()
    other[where] = adapted
    times = rows.asked_at.to_pylist()
    if asked is not None:
        times = [asked if t is not None and n in set(np.arange(len(times))[where]) else t for n, t in enumerate(times)]
    return replace(rows, adapted=other, asked_at=_times(times))


def test_the_limits_are_the_settings_of_the_section() -> None:
    assert {f.name for f in dataclasses.fields(Limits)} == set(PromotionSettings.model_fields)
    assert all(field.description for field in PromotionSettings.model_fields.values())


def test_the_same_night_again_passes_every_check_and_all_of_them_are_measured(shop: Shop) -> None:
    found = judge(shop.open(sides(view("item.facts")), 1), shop.before, LIMITS, Told())
    assert [v.check for v in found if not v.is_passed] == []
    assert {v.check.split()[0] for v in found if v.measured is None} == {"drift", "uplift"}  # no text changed, no uplift is asked for
    assert named("unchanged item.facts", found).measured == 1.0
    assert len(found) == len({v.check for v in found}) == 31


def test_the_first_release_is_held_against_the_absolute_limits_only(shop: Shop) -> None:
    found = judge(shop.before, None, LIMITS, Told())
    assert all(v.is_passed for v in found)
    assert {v.check.split()[0] for v in found if v.measured is not None} == {
        "finite",
        "norm_spread",
        "effective_rank",
        "collapse",
        "coverage",
    }
    assert "no release is served yet" in named("rows user", found).why


@pytest.mark.parametrize(("count", "is_passed"), [(54, True), (53, False), (120, True), (121, False)])
def test_rows_may_fall_to_the_least_share_and_grow_to_the_greatest(shop: Shop, count: int, is_passed: bool) -> None:
    found = shop.verdict("rows item", view("item.facts", count=count), max_rows_share=2.0, min_kept_share=0.0)
    assert found.is_passed is is_passed
    assert f"{count} rows, 60 in the last release" in found.why


@pytest.mark.parametrize(("lost", "is_passed"), [(6, True), (7, False)])
def test_ids_of_the_last_release_must_still_be_there(shop: Shop, lost: int, is_passed: bool) -> None:
    found = shop.verdict("keys item", view("item.facts"), ids=pa.array(np.arange(100 + lost, 160 + lost)))
    assert (found.is_passed, found.measured) == (is_passed, pytest.approx(1 - lost / 60, abs=1e-5))


def test_ids_of_another_type_are_other_ids(shop: Shop) -> None:
    found = shop.verdict("keys item", view("item.facts"), ids=pa.array([f"i{n:02d}" for n in range(N)]))
    assert (found.is_passed, found.measured) == (False, 0.0)


class Damaged(Release):
    """A release whose files say something else than was verified: ids that come again, vectors that are not finite."""

    def __init__(self, whole: Release, ids: pa.Array | None = None, spoil: Callable[[np.ndarray], None] | None = None) -> None:
        super().__init__(whole.path, whole.manifest)
        self._odd, self._spoil = ids, spoil

    def ids(self, side: Any) -> pa.Array:
        return self._odd if self._odd is not None and side == "item" else super().ids(side)

    def gather(self, view: str, rows: np.ndarray, kind: Any = "adapted") -> np.ndarray:
        vectors = np.array(super().gather(view, rows, kind))
        if self._spoil is not None and view == "item.facts" and kind == "knowledge":
            self._spoil(vectors)
        return vectors


@pytest.mark.parametrize(
    ("ids", "why"),
    [([*range(100, 159), 158], "1 ids come again"), ([*range(101, 160), 100], "do not ascend"), ([*range(100, 159), None], "1 are null")],
)
def test_ids_that_come_again_or_descend_are_no_keys(shop: Shop, ids: list[int | None], why: str) -> None:
    for before in (shop.before, None):
        found = named("keys item", judge(Damaged(shop.before, pa.array(ids, pa.int64())), before, LIMITS, Told()))
        assert not found.is_passed
        assert why in found.why


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_vector_that_is_not_finite_is_enough(shop: Shop, value: float) -> None:
    def spoil(vectors: np.ndarray) -> None:
        vectors[3, 2] = value

    found = judge(Damaged(shop.before, spoil=spoil), shop.before, LIMITS, Told())
    assert [v.check for v in found if not v.is_passed and v.check.startswith("finite")] == ["finite item.facts"]
    assert named("finite item.facts", found).measured == 1.0
    assert named("finite user.preference", found).is_passed


def test_a_long_vector_whose_square_is_no_float32_is_finite(shop: Shop) -> None:
    def spoil(vectors: np.ndarray) -> None:
        vectors[3] = 1e30

    found = judge(Damaged(shop.before, spoil=spoil), shop.before, LIMITS, Told())
    assert named("finite item.facts", found).is_passed
    assert not named("norm_spread item.facts knowledge", found).is_passed


@pytest.mark.parametrize(("scale", "is_passed"), [(1.24, True), (1.26, False), (0.76, True), (0.74, False)])
def test_the_mean_length_may_move_by_the_greatest_change(shop: Shop, scale: float, is_passed: bool) -> None:
    rows = view("item.facts")
    found = shop.verdict("norm item.facts", changed(rows, slice(0, 50), rows.adapted[:50] * np.float32(scale)))
    assert (found.is_passed, found.measured) == (is_passed, pytest.approx(abs(scale - 1), abs=1e-3))


@pytest.mark.parametrize(("times", "is_passed"), [(9.8, True), (10.3, False)])
def test_no_vector_may_be_much_longer_than_the_median(shop: Shop, times: float, is_passed: bool) -> None:
    rows = view("item.facts")
    vector = np.full((1, W), times * np.median(np.linalg.norm(rows.adapted[:50], axis=1)) / np.sqrt(W), np.float32)
    assert shop.verdict("norm_spread item.facts", changed(rows, slice(7, 8), vector), max_norm_spread=10.0).is_passed is is_passed


def _line(spread: float) -> np.ndarray:
    """50 vectors along one line, and so far off it."""
    draw = np.random.default_rng(5)
    return (draw.normal(1.0, 0.3, (50, 1)) * np.ones((1, W)) + spread * draw.normal(0, 1, (50, W))).astype(np.float32)


@pytest.mark.parametrize(("spread", "is_passed"), [(0.02, True), (0.002, False)])
def test_vectors_on_one_line_have_no_rank(shop: Shop, spread: float, is_passed: bool) -> None:
    found = shop.verdict("effective_rank item.facts", changed(view("item.facts"), slice(0, 50), _line(spread)), adaptor="b" * 64)
    assert found.is_passed is is_passed
    assert found.limit == LIMITS.min_effective_rank
    assert "another space" in found.why


@pytest.mark.parametrize(("spread", "is_passed"), [(0.5, True), (0.1, False)])
def test_the_rank_may_not_fall_far_below_the_last_release_s(shop: Shop, spread: float, is_passed: bool) -> None:
    found = shop.verdict(
        "effective_rank item.facts", changed(view("item.facts"), slice(0, 50), _line(spread)), min_effective_rank_share=0.6
    )
    assert found.is_passed is is_passed
    assert found.limit is not None
    assert found.limit > 2 > LIMITS.min_effective_rank


@pytest.mark.parametrize(("spread", "is_passed"), [(0.1, True), (0.005, False)])
def test_subjects_that_are_all_alike_are_a_collapse(shop: Shop, spread: float, is_passed: bool) -> None:
    alike = (1 + spread * np.random.default_rng(2).normal(0, 1, (50, W))).astype(np.float32)
    found = shop.verdict("collapse item.facts", changed(view("item.facts"), slice(0, 50), alike), adaptor="b" * 64)
    assert found.is_passed is is_passed


@pytest.mark.parametrize(("angle", "is_passed"), [(0.013, True), (0.016, False)])
def test_one_subject_whose_vector_moved_although_its_text_did_not_is_enough(shop: Shop, angle: float, is_passed: bool) -> None:
    rows = view("item.facts")
    unit = np.zeros(W)
    unit[:2] = -rows.adapted[17, 1], rows.adapted[17, 0]
    aside = unit * np.linalg.norm(rows.adapted[17]) / np.linalg.norm(unit) * np.tan(angle)
    found = shop.verdict("unchanged item.facts", changed(rows, slice(17, 18), (rows.adapted[17] + aside).astype(np.float32)[None]))
    assert (found.is_passed, found.measured) == (is_passed, pytest.approx(np.cos(angle), abs=1e-6))
    if not is_passed:
        assert "50 subjects whose text is the same (item 117; 1 moved)" in found.why


def test_rows_of_two_subjects_that_were_swapped_are_found(shop: Shop) -> None:
    rows = view("item.facts")
    assert not shop.verdict("unchanged item.facts", changed(rows, [4, 9], rows.adapted[[9, 4]])).is_passed


def test_a_subject_whose_text_changed_may_move_and_is_counted_as_drift(shop: Shop) -> None:
    rows = view("item.facts")
    moved = changed(rows, slice(0, 40), -rows.adapted[:40], asked=ASKED + dt.timedelta(days=1))
    assert shop.verdict("unchanged item.facts", moved).is_passed
    found = shop.verdict("drift item.facts", moved)
    assert (found.is_passed, found.measured) == (False, pytest.approx(-1.0))
    assert "40 subjects whose text changed" in found.why


@pytest.mark.parametrize(("turned", "is_passed"), [(15, True), (17, False)])
def test_drift_is_the_mean_over_those_whose_text_changed(shop: Shop, turned: int, is_passed: bool) -> None:
    rows = view("item.facts")  # of 40 changed texts so many turned around: cosine -1, the others 1
    moved = changed(rows, slice(0, 40), rows.adapted[:40] * np.where(np.arange(40) < turned, -1, 1)[:, None], ASKED + dt.timedelta(days=1))
    assert shop.verdict("drift item.facts", moved).is_passed is is_passed


def test_another_model_is_another_text(shop: Shop) -> None:
    rows = view("item.facts")
    other = replace(changed(rows, slice(0, 50), -rows.adapted[:50]), model=pa.array(["big"] * 50 + [None] * 10, pa.string()))
    assert shop.verdict("unchanged item.facts", other).measured is None
    assert not shop.verdict("drift item.facts", other).is_passed


def test_vectors_of_two_spaces_are_not_compared_and_the_verdict_says_so(shop: Shop) -> None:
    rows = view("item.facts", seed=9)
    for check in ("norm", "unchanged", "drift"):
        found = shop.verdict(f"{check} item.facts", rows, adaptor="b" * 64)
        assert (found.is_passed, found.measured) == (True, None)
        assert "another space" in found.why


@pytest.mark.parametrize(("known", "is_passed"), [(47, True), (46, False)])
def test_coverage_may_fall_by_the_greatest_drop(shop: Shop, known: int, is_passed: bool) -> None:
    found = shop.verdict("coverage item.facts", view("item.facts", known=known), max_coverage_drop=0.06)
    assert (found.is_passed, found.measured) == (is_passed, pytest.approx(known / 60, abs=1e-5))


@pytest.mark.parametrize(("least", "is_passed"), [(0.83, True), (0.84, False)])
def test_coverage_has_a_floor_of_its_own(shop: Shop, least: float, is_passed: bool) -> None:
    found = named("coverage item.facts", judge(shop.before, None, replace(LIMITS, min_coverage=least), Told()))
    assert found.is_passed is is_passed


def test_a_view_that_is_gone_fails_and_one_that_is_new_is_not_compared(shop: Shop) -> None:
    verdicts = judge(shop.open(sides(view("item.tags")), 1), shop.before, LIMITS, Told())
    assert [v.check for v in verdicts if not v.is_passed] == ["coverage item.facts"]
    assert "the view is gone; the last release covers 83.3% of the items" in named("coverage item.facts", verdicts).why


def test_means_over_histories_have_no_text_that_could_be_the_same(tmp_path: Path) -> None:
    users, items = sides()
    liked = replace(view("user.liked_facts", seed=3), knowledge=np.zeros((N, 0), np.float32), pooled_from=Pooled("item.facts", "liked", 5))
    shop = Shop(tmp_path)
    rows = (replace(users, views=(*users.views, liked)), items)
    first = shop.open(rows, 2)
    turned = replace(liked, adapted=-liked.adapted, default=liked.default)
    turned.adapted[50:] = liked.default
    found = judge(shop.open((replace(users, views=(*users.views, turned)), items), 3), first, LIMITS, Told())
    assert named("unchanged user.liked_facts", found).measured is None
    assert [v.check for v in found if not v.is_passed] == ["drift user.liked_facts"]


def _told(count: int, now: dict[str, float], before: dict[str, float]) -> Told:
    return Told({"item.facts": Refused(count, now)}, {"item.facts": Refused(100, before)})


@pytest.mark.parametrize(("share", "is_passed"), [(0.3, True), (0.31, False)])
def test_at_most_so_many_answers_may_be_refused(shop: Shop, share: float, is_passed: bool) -> None:
    told = _told(100, {"echo": 0.2, "empty": share}, {})
    found = named("rejected item.facts", judge(shop.before, None, replace(LIMITS, max_rejected_share=0.5), told))
    assert found.is_passed is is_passed
    few = judge(
        shop.before, None, replace(LIMITS, max_rejected_share=0.5), replace(told, refused={"item.facts": Refused(29, {"echo": 1.0})})
    )
    assert named("rejected item.facts", few).measured is None


@pytest.mark.parametrize(("share", "is_passed"), [(0.34, True), (0.36, False)])
def test_no_reason_s_share_may_rise_much_over_the_night_before(shop: Shop, share: float, is_passed: bool) -> None:
    told = _told(100, {"echo": 0.3, "empty": share}, {"empty": 0.1, "echo": 0.3})
    found = named("reasons item.facts", judge(shop.before, None, LIMITS, told))
    assert found.is_passed is is_passed
    assert found.why.startswith(f"empty: {share:.1%} of the answers, 10.0% the night before")


@pytest.mark.parametrize("is_positive", [True, False])
def test_an_uplift_that_is_asked_for_decides(shop: Shop, is_positive: bool) -> None:
    found = named("uplift", judge(shop.before, None, LIMITS, Told(uplift=Uplift(is_positive, 0.001, "So it is."))))
    assert (found.is_passed, found.why) == (is_positive, "So it is.")


def test_one_failed_check_keeps_the_pointer_and_the_manifest_says_why(tmp_path: Path) -> None:
    def gate(new: Release, before: Release | None) -> tuple[GateVerdict, ...]:
        return judge(new, before, LIMITS, Told())

    first = publish(tmp_path, sides(), world.facts(world.day(0)), gate=gate)
    second = publish(tmp_path, sides(view("item.facts", known=20)), world.facts(world.day(1)), gate=gate)
    assert (first.is_promoted, second.is_promoted) == (True, False)
    assert kar.release.open(tmp_path).id == first.path.name
    told = kar.release.open(second.path, verify=True).manifest["gate"]
    assert [v["check"] for v in told if not v["is_passed"]] == ["coverage item.facts"]
    assert [v["check"] for v in told] == [v.check for v in second.gate]
