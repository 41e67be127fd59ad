"""Each check passes on the tables that the models made, and fails on a planted bad row, which it names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kar.errors import CheckFailed
from kar.warehouse import Warehouse, models
from tests.warehouse.filled import PARAMETERS, filled

PLANTED: dict[str, str] = {
    "check_interaction_is_of_known_subjects": "insert into interaction by name select 77 as user_id, * exclude (user_id) from interaction limit 1",
    "check_interaction_is_before_cutoff": "update interaction set event_at = timestamptz '2026-01-10 00:00:00+00' where user_id = 1",
    "check_history_is_before_cutoff": "update history set newest_event_at = timestamptz '2026-01-10 00:00:00+00' where user_id = 1",
    "check_history_is_in_order": "update history set event_ats = list_reverse(event_ats) where user_id = 1",
    "check_item_evidence_is_history": "update item_profile set evidence_users = ['77'], evidence_items = ['10'] where item_id = 10",
    "check_no_history_event_is_labelled": (
        "update example set item_id = h.item_ids[1], event_at = h.event_ats[1] from history h where h.user_id = example.user_id"
    ),
    "check_no_example_is_in_evidence": (
        "update core_evidence set evidence_users = ['2'], evidence_items = [(select any_value(cast(item_id as varchar)) from example"
        " where user_id = 2)], subject_id = '2' where view = 'user.preference'"
    ),
}
ALSO: dict[str, str] = {
    "check_history_is_before_cutoff": "update item_profile set evidence_newest_at = timestamptz '2026-01-10 00:00:00+00' where item_id = 10",
    "check_history_is_in_order": "update history set titles = titles[2:] where user_id = 1",
    "check_no_history_event_is_labelled": "update example set position = 0 where user_id = 1",
    "check_no_example_is_in_evidence": "update core_evidence set evidence_newest_at = timestamptz '2026-01-10 00:00:00+00' where subject_id = '1'",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with filled(tmp_path_factory.mktemp("shop")) as warehouse:
        yield warehouse


@pytest.fixture
def shop(made: Warehouse) -> Iterator[Warehouse]:
    """The same tables for every test: what one plants is rolled back."""
    made.connection.execute("begin transaction")
    yield made
    made.connection.execute("rollback")


def test_every_check_has_a_planted_row() -> None:
    assert set(PLANTED) == {name for name in models() if name.startswith("check_")}
    assert len(PLANTED) == 7


@pytest.mark.parametrize(("name", "plant"), [*PLANTED.items(), *ALSO.items()])
def test_a_check_passes_before_and_fails_after_a_bad_row_is_planted(shop: Warehouse, name: str, plant: str) -> None:
    shop.check(name, **PARAMETERS)
    shop.connection.execute(plant)
    with pytest.raises(CheckFailed, match=rf"^{name}: \d+ bad rows \(one row per .*\); the first: \[{{"):
        shop.check(name, **PARAMETERS)
