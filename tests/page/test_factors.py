from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kar.page.factors import Told, by_factor, centres, tally
from tests.page import fake_home


def told(*rows: tuple[str, str, str]) -> pa.Table:
    return pa.table({name: [row[n] for row in rows] for n, name in enumerate(("view", "factor", "text"))})


FACTS = told(
    ("item.facts", "genre", "A dark comedy."),
    ("item.facts", "mood", "Wry."),
    ("item.facts", "genre", "A dark comedy."),
    ("item.facts", "genre", "  Horror of the  old school. "),
    ("user.preference", "", "Likes horror."),
)


def test_texts_are_counted_per_view_and_factor_and_prose_is_not() -> None:
    found = tally([FACTS])
    assert {key: (t.count, t.words, len(t.distinct)) for key, t in found.items()} == {
        ("item.facts", "genre"): (3, 11, 2),
        ("item.facts", "mood"): (1, 1, 1),
    }


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_the_counts_do_not_depend_on_how_the_table_is_cut(cut: int) -> None:
    assert tally([FACTS.slice(0, cut), FACTS.slice(cut)]) == tally([FACTS])


def test_shares_are_of_the_views_subjects_and_of_the_texts() -> None:
    rows = {row.factor: row for row in by_factor(tally([FACTS]), {"item.facts": 4}, {}).factors}
    assert (rows["genre"].share, rows["genre"].mean_words, rows["genre"].distinct_share) == (
        0.75,
        pytest.approx(11 / 3),
        pytest.approx(2 / 3),
    )
    assert rows["mood"].share == 0.25


def vectors(rng: np.random.Generator, view: str, count: int) -> pa.Table:
    made = rng.normal(size=(count, 6)).astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return pa.table({"view": [view] * count, "vector": pa.FixedSizeListArray.from_arrays(pa.array(made.reshape(-1)), 6)})


def of(table: pa.Table) -> np.ndarray:
    return np.array(table.column("vector").to_pylist(), np.float64)


def test_the_cosine_is_the_mean_over_all_pairs_of_a_user_and_an_item() -> None:
    rng = np.random.default_rng(3)
    users, same, other = vectors(rng, "user.preference:mood", 5), vectors(rng, "item.facts:mood", 7), vectors(rng, "item.facts:genre", 4)
    parts = [pa.concat_tables([users, same.slice(0, 2)]), vectors(rng, "item.facts", 3), pa.concat_tables([same.slice(2), other])]
    (meeting,) = by_factor({}, {}, centres(parts)).meetings
    assert (meeting.factor, meeting.user_view, meeting.item_view) == ("mood", "user.preference", "item.facts")
    assert meeting.same == pytest.approx((of(users) @ of(same).T).mean())
    assert meeting.other == pytest.approx((of(users) @ of(other).T).mean())


def test_a_factor_of_one_side_alone_meets_nothing() -> None:
    assert by_factor({}, {}, centres([vectors(np.random.default_rng(1), "item.facts:mood", 3)])).meetings == []


def test_the_page_has_a_row_for_each_factor_and_no_section_without_any(tmp_path: Path) -> None:
    page = fake_home.page(tmp_path / "factors")
    assert 'id="factors"' in page
    assert page.count('<th scope="row"><bdi>item.facts</bdi></th><td><bdi>') == 2
    without = fake_home.Plan(edit={"factor_knowledge": lambda rows: [row for row in rows if row["factor"] == ""]})
    assert 'id="factors"' not in fake_home.page(tmp_path / "prose", without)


def test_hostile_text_in_a_factor_runs_nowhere(tmp_path: Path) -> None:
    planted = "<script>alert(1)</script>"
    plan = fake_home.Plan(
        edit={
            "factor_knowledge": lambda rows: (
                [{**row, "factor": row["factor"] and planted, "text": planted} for row in rows[:1]]
                + [{"view": "item.facts", "subject_id": "1", "factor": planted, "text": planted}]
            )
        }
    )
    page = fake_home.page(tmp_path, plan)
    assert planted not in page
    assert "&lt;script&gt;" in page


def test_only_the_first_texts_are_held_against_each_other() -> None:
    found = Told(most=2)
    for _ in range(3):
        found.add(pa.array(["a", "b", "c"]))
    assert (found.count, found.sampled, len(found.distinct)) == (9, 2, 2)
