"""One published folder for all examples, with knowledge that knows the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kar.release.publish import publish
from kar.release.rows import SideRows
from tests.release import world

USERS, ITEMS, PER_USER = 240, 40, 16


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published folder whose vectors know the answer: a user likes an item if the signs of their first numbers agree.

    Every user of the test examples is new, so ids alone cannot know it. A fifth of the users has no knowledge. The release has a layer: the
    night before knew another taste of three users, and a user who is gone.
    """
    folder = tmp_path_factory.mktemp("planted")
    draw = np.random.default_rng(3)
    taste, kind = draw.choice([-1.0, 1.0], USERS), draw.choice([-1.0, 1.0], ITEMS)
    users = world.view_rows("user.preference", USERS, missing=set(range(0, USERS, 5)), newest=world.DAY)
    items = world.view_rows("item.facts", ITEMS, missing=set(), newest=None)
    for rows, sign in ((users, taste), (items, kind)):
        rows.adapted[~rows.is_missing] = draw.normal(0, 0.1, (int((~rows.is_missing).sum()), world.A))
        rows.adapted[~rows.is_missing, 0] += sign[~rows.is_missing]
    items_side = SideRows("item", pa.array([f"i{n:02d}" for n in range(ITEMS)]), (items,))
    before = world.view_rows("user.preference", USERS + 1, missing=set(range(0, USERS, 5)), newest=world.DAY)
    before.adapted[:USERS], before.knowledge[:USERS] = users.adapted, users.knowledge
    before.adapted[[7, 8, 9]] *= -1
    older = SideRows("user", pa.array([*range(USERS), 1000]), (before,)), items_side
    publish(folder / "published", older, world.facts(world.day(-1), published_at=world.day(1.5)))
    sides = SideRows("user", pa.array(range(USERS)), (users,)), items_side
    publish(folder / "published", sides, world.facts(published_at=world.day(2)))
    user = np.repeat(np.arange(USERS), PER_USER)
    item = draw.integers(0, ITEMS, len(user))
    label = ((taste[user] == kind[item]) ^ (draw.random(len(user)) < 0.1)).astype(np.int32)
    table = world.examples([world.day(3)] * len(user), user.tolist(), [f"i{n:02d}" for n in item])
    split = np.where(user < 160, "train", np.where(user < 200, "valid", "test"))
    table = table.append_column("label", pa.array(label)).append_column("split", pa.array(split))
    pq.write_table(table, folder / "example.parquet")
    return folder
