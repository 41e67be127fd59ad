"""A night whose answers have factors: asked by schema, judged, stored, carried forward and imported, factor by factor."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from kar import run as runner
from kar.llm.ledger import look_up
from kar.settings import Settings
from kar.store import Manifest
from kar.text.factors import load_factors
from kar.text.structured import factor_keys
from tests import begun, world
from tests.llm.loopback import Behaviour, answer_in_factors, answer_to, loopback, schema_of

DAY = world.LAST_DAY
TOMORROW = DAY + dt.timedelta(days=1)
NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
STAGES = ["sources", "histories", "prompts", "knowledge"]
PROMPTS = Path(__file__).parents[2] / "prompts"
MOVIES = factor_keys(load_factors(PROMPTS, "movies"))
FACTORS = {"prompts": {"form": {"item.facts": "factors"}}}
Key = tuple[str, str]


class Night:
    """A small world, 6 users and 8 items, whose items are asked in factors and its users in prose."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home, self.data = begun.begin(folder, (DAY, TOMORROW), users=6, items=8, events=6)

    def run(self, base_url: str = "http://127.0.0.1:9/v1", date: dt.date = DAY, **sections: dict[str, Any]) -> Manifest:
        llm = {"base_url": base_url, "timeout_s": 5.0, "max_attempts": 1, **sections.pop("llm", {})}
        merged = {**FACTORS, **sections}
        return runner.run_all(self.settings(llm=llm, **merged), self.home, date, lambda: NOW, STAGES)[-1]

    def settings(self, **sections: dict[str, Any]) -> Settings:
        return world.settings(self.data, **sections)

    def knowledge(self, date: dt.date = DAY) -> dict[Key, dict[str, Any]]:
        rows = pq.read_table(self.home.partition("knowledge", date).table("knowledge")).to_pylist()
        return {(row["view"], row["subject_id"]): row for row in rows}

    def factors(self, date: dt.date = DAY) -> dict[Key, dict[str, str]]:
        """(view, subject) → factor → text."""
        found: dict[Key, dict[str, str]] = {}
        for row in pq.read_table(self.home.partition("knowledge", date).table("factor_knowledge")).to_pylist():
            found.setdefault((row["view"], row["subject_id"]), {})[row["factor"]] = row["text"]
        return found

    def refused(self, date: dt.date = DAY) -> dict[Key, str]:
        rows = pq.read_table(self.home.partition("knowledge", date).table("refused")).to_pylist()
        return {(row["view"], row["subject_id"]): row["reason"] for row in rows}

    def body(self, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(look_up(self.home.ledger, [self.knowledge()[key]["request_key"]]).popitem()[1].body)
        return found


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def about_film_3(mode: str) -> Behaviour:
    return lambda call: mode if "Film 3 (" in call.prompt and "<entry>" in call.prompt else "ok"


def test_every_factor_of_an_answer_is_a_row_and_the_whole_reads_as_prose(night: Night) -> None:
    with loopback() as server:
        manifest = night.run(server.base_url)
        assert server.calls == 14
    knowledge, factors = night.knowledge(), night.factors()
    assert knowledge.keys() == factors.keys()
    for number in range(1, 9):
        key = ("item.facts", str(number))
        body = night.body(key)
        said = json.loads(answer_in_factors("\n".join(m["content"] for m in body["messages"]), schema_of(body) or {}))
        assert list(said) == list(MOVIES)
        assert factors[key] == said
        assert knowledge[key]["text"] == " ".join(f"{name.capitalize()}: {said[k]}" for k, name in MOVIES.items())
    assert manifest.rejected == {}
    assert manifest.figures["factors"] == {"item.facts": dict.fromkeys(sorted(MOVIES), 8), "user.preference": {"": 6}}


def test_prose_is_one_row_about_all_factors(night: Night) -> None:
    with loopback() as server:
        night.run(server.base_url)
    users = {key: told for key, told in night.factors().items() if key[0] == "user.preference"}
    assert len(users) == 6
    assert users == {key: {"": row["text"]} for key, row in night.knowledge().items() if key[0] == "user.preference"}


def test_a_server_that_ignores_the_schema_ends_in_the_same_tables(night: Night) -> None:
    with loopback(lambda call: "schemaless") as server:
        manifest = night.run(server.base_url)
    row = night.knowledge()["item.facts", "3"]
    assert row["text"] == answer_to("\n".join(m["content"] for m in night.body(("item.facts", "3"))["messages"]))
    assert night.factors()["item.facts", "3"] == {"": row["text"]}
    assert manifest.rejected == {}


def test_hosted_providers_are_asked_by_response_format_and_end_in_the_same_tables(night: Night) -> None:
    with loopback() as server:
        night.run(server.base_url, llm={"structured": "response_format"})
    assert "response_format" in night.body(("item.facts", "3"))
    assert set(night.factors()["item.facts", "3"]) == set(MOVIES)


def test_a_factor_that_the_model_is_not_sure_of_has_no_row(night: Night) -> None:
    said = {key: "" if key in ("music", "mood") else f"{answer_to(key, 6)}" for key in MOVIES}
    with loopback(about_film_3("said"), answers={"said": (json.dumps(said), "stop")}) as server:
        night.run(server.base_url)
    assert night.factors()["item.facts", "3"] == {key: text for key, text in said.items() if text}
    assert "Music" not in night.knowledge()["item.facts", "3"]["text"]


@pytest.mark.parametrize(
    ("mode", "reason"), [("empty_factors", "empty"), ("other_json", "broken_json"), ("empty", "empty"), ("refusal", "refusal")]
)
def test_an_answer_without_factors_is_refused_by_its_reason(night: Night, mode: str, reason: str) -> None:
    with loopback(about_film_3(mode)) as server:
        manifest = night.run(server.base_url)
    assert night.refused() == {("item.facts", "3"): reason}
    assert ("item.facts", "3") not in night.factors()
    assert manifest.rejected == {reason: 1}


def test_a_cut_object_is_truncated_asked_once_more_and_never_kept_as_text(night: Night) -> None:
    with loopback(about_film_3("length")) as server:
        night.run(server.base_url)
        assert server.calls == 15
    assert night.refused() == {("item.facts", "3"): "truncated"}


def test_an_object_that_was_cut_at_first_is_whole_with_more_tokens(night: Night) -> None:
    def behave(call: Any) -> str:
        return "length" if about_film_3("cut")(call) == "cut" and call.times == 1 and call.body["max_tokens"] < 500 else "ok"

    with loopback(behave) as server:
        night.run(server.base_url)
        assert server.calls == 15
    assert night.refused() == {}
    assert set(night.factors()["item.facts", "3"]) == set(MOVIES)


def test_a_text_that_the_longest_length_cut_ends_at_a_word(night: Night) -> None:
    cut = ("a mood of very many long words without any end and " * 9)[:140]
    assert not cut.endswith(" ")
    said = {key: "x" if key != "mood" else cut for key in MOVIES}
    with loopback(about_film_3("said"), answers={"said": (json.dumps(said), "stop")}) as server:
        night.run(server.base_url, knowledge={"max_repetition_share": 1.0})
    assert night.factors()["item.facts", "3"]["mood"] == cut.rpartition(" ")[0]


def test_what_is_carried_forward_keeps_its_factors(night: Night) -> None:
    with loopback() as server:
        night.run(server.base_url)
        night.run("http://127.0.0.1:9/v1", date=TOMORROW)
        assert server.calls == 14
    assert night.factors(TOMORROW) == night.factors()
    assert {row["origin"] for row in night.knowledge(TOMORROW).values()} == {"last_good"}


def test_a_refused_subject_keeps_the_factors_of_its_last_good_answer(night: Night) -> None:
    with loopback() as server:
        night.run(server.base_url, llm={"revision": "r1"})
    with loopback(about_film_3("empty_factors")) as server:
        night.run(server.base_url, date=TOMORROW, llm={"revision": "r2"})
    assert night.factors(TOMORROW)["item.facts", "3"] == night.factors()["item.facts", "3"]
    assert night.knowledge(TOMORROW)["item.facts", "3"]["origin"] == "last_good"


def test_a_view_that_changes_its_form_mixes_neither_nights_rows(night: Night) -> None:
    with loopback() as server:
        night.run(server.base_url)
        night.run(server.base_url, date=TOMORROW, prompts={})
        assert server.calls == 14 + 8  # only the items have other words
    assert set(night.factors(TOMORROW)["item.facts", "3"]) == {""}
    assert len(night.factors(TOMORROW)) == 14


def test_imported_texts_are_one_row_about_all_factors(night: Night) -> None:
    world.facts(night.folder, items=8)
    imports = {"imports": {"item.facts": "facts.jsonl"}, "imports_folder": str(night.folder)}
    with loopback() as server:
        night.run(server.base_url, knowledge=imports, prompts={})
        night.run(server.base_url, date=TOMORROW, knowledge=imports, prompts={})
    for date in (DAY, TOMORROW):
        text = night.knowledge(date)["item.facts", "3"]["text"]
        assert night.factors(date)["item.facts", "3"] == {"": text}


def test_knowledge_of_a_version_without_factors_is_carried_as_prose(night: Night) -> None:
    with loopback() as server:
        night.run(server.base_url)
    partition = night.home.partition("knowledge", DAY)
    partition.table("factor_knowledge").unlink()
    made = json.loads(partition.manifest_path.read_text())
    del made["tables"]["factor_knowledge"]
    partition.manifest_path.write_text(json.dumps(made))
    night.run("http://127.0.0.1:9/v1", date=TOMORROW)
    assert night.factors(TOMORROW) == {key: {"": row["text"]} for key, row in night.knowledge().items()}
