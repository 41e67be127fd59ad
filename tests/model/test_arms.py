"""What an arm of a name gives the ranker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kar.errors import ModelError
from kar.model.arms import plan
from kar.settings import AdaptorSettings

SettingsWith = Callable[..., AdaptorSettings]
ITEM = ["item.facts", "item.facts:mood", "item.infer", "item.engagement"]
USER = ["user.preference:mood", "user.preference"]


@pytest.mark.parametrize(
    ("arm", "user", "item"),
    [
        ("knowledge", USER, ITEM),
        ("text", ["user.raw"], ["item.raw"]),
        ("user_only", USER, None),
        ("item_only", None, ITEM),
        ("noise", [f"{view}@noise" for view in USER], [f"{view}@noise" for view in ITEM]),
        ("without:mood", ["user.preference"], ["item.facts", "item.infer", "item.engagement"]),
        ("without:item.engagement", USER, ["item.facts", "item.facts:mood", "item.infer"]),
        ("without:item.facts", USER, ["item.infer", "item.engagement"]),
        ("without:user.preference", None, ITEM),
    ],
)
def test_an_arm_has_these_views(settings_with: SettingsWith, arm: str, user: list[str] | None, item: list[str] | None) -> None:
    found = plan(arm, settings_with(user_views=USER, item_views=ITEM, arms=["base", arm]))
    assert (found.views.get("user"), found.views.get("item")) == (user, item)


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ("without:music", "no view is of the factor 'music'"),
        ("without:item.tags", r"no view is 'item\.tags'"),
        ("user_only", "the arm user_only leaves no views"),
    ],
)
def test_an_arm_that_leaves_out_nothing_or_everything_is_refused(settings_with: SettingsWith, arm: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        plan(arm, settings_with(user_views=[], item_views=ITEM, arms=["base", arm]))
