"""The knowledge stage against a loopback server: asked, judged, carried forward, imported; calls counted at the server."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from kar import run as runner
from kar.errors import ServerUnreachable, SettingsError
from kar.llm import arrivals
from kar.llm.batch.importing import take
from kar.llm.batch.planned import stream
from kar.llm.batch.results import Results
from kar.llm.ledger import Ledger, look_up
from kar.settings import Settings
from kar.store import Manifest
from tests import begun, world
from tests.llm.batch.conftest import completion, openai_line
from tests.llm.loopback import Behaviour, Call, Server, answer_to, loopback

DAY = world.LAST_DAY
TOMORROW = DAY + dt.timedelta(days=1)
NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
STAGES = ["sources", "histories", "prompts", "knowledge"]
EVIDENCE = ("evidence_users", "evidence_items", "evidence_newest_at", "neighbour_items")


class Shop:
    """A small world with its home: 6 users, 8 items."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home, self.data = begun.begin(folder, (DAY, TOMORROW), users=6, items=8, events=6)

    def run(
        self, base_url: str = "http://127.0.0.1:9/v1", date: dt.date = DAY, now: dt.datetime = NOW, **sections: dict[str, Any]
    ) -> Manifest:
        """Make the four stages; the knowledge stage's manifest."""
        llm = {"base_url": base_url, "timeout_s": 5.0, **sections.pop("llm", {})}
        return runner.run_all(self.settings(llm=llm, **sections), self.home, date, lambda: now, STAGES)[-1]

    def settings(self, **sections: dict[str, Any]) -> Settings:
        return world.settings(self.data, **sections)

    def rows(self, table: str, date: dt.date = DAY, stage: str = "knowledge") -> dict[tuple[str, str], dict[str, Any]]:
        found = pq.read_table(self.home.partition(stage, date).table(table)).to_pylist()
        return {(row["view"], row["subject_id"]): row for row in found}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def about(title: str, mode: str, server_says: str = "ok") -> Behaviour:
    """A behaviour for the prompt about one item, another for all other prompts."""
    return lambda call: mode if f"{title} (" in call.prompt and "<entry>" in call.prompt else server_says


def test_every_planned_subject_is_asked_once_and_its_answer_is_kept_with_its_origin(shop: Shop) -> None:
    with loopback() as server:
        manifest = shop.run(server.base_url, llm={"revision": "r7"})
        assert server.calls == 14
    plan, knowledge = shop.rows("plan", stage="prompts"), shop.rows("knowledge")
    requests = shop.rows("request", stage="prompts")
    assert len(knowledge) == 14
    assert shop.rows("refused") == {}
    for key, row in knowledge.items():
        planned = plan[key]
        prompt = "\n".join(m["content"] for m in json.loads(requests[key]["body"])["messages"])
        assert row["text"] == answer_to(prompt)
        assert (row["origin"], row["model"], row["model_revision"], row["asked_at"]) == ("tonight", "tiny", "r7", NOW)
        same = ("request_key", "template_version", "evidence_sha", *EVIDENCE, "cutoff_at")
        assert {c: row[c] for c in same} == {c: planned[c] for c in same}
        assert row["completion_tokens"] == 30
    figures = manifest.figures
    assert (figures["calls"], figures["answered"], figures["from_ledger"], figures["stopped_by"]) == (14, 14, 0, "none")
    assert figures["completion_tokens"] == 14 * 30
    assert figures["prompt_tokens"] == sum(row["prompt_tokens"] for row in knowledge.values())
    assert figures["coverage"] == {"item.facts": 1.0, "user.preference": 1.0}
    assert figures["seconds_asking"] > 0
    assert manifest.rejected == {}


def test_prompts_are_sent_in_the_order_of_their_rank(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url, llm={"concurrency": 1})
        sent = [body.decode() for body in server.bodies]
    assert sent == [row["body"] for row in shop.rows("request", stage="prompts").values()]


def test_a_night_with_all_answers_in_the_ledger_makes_no_call(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url)
        first = shop.rows("knowledge")
        manifest = shop.run(server.base_url, knowledge={"min_words": 11})  # another recipe, so the stage runs again
        assert server.calls == 14
    assert manifest.figures["from_ledger"] == 14
    assert manifest.figures["calls"] == 0
    assert shop.rows("knowledge") == first
    shop.run("http://127.0.0.1:9/v1", knowledge={"min_words": 10})  # nobody answers there, and nobody has to


def test_the_next_night_asks_nothing_and_carries_the_knowledge_forward(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url)
        manifest = shop.run("http://127.0.0.1:9/v1", date=TOMORROW)
        assert server.calls == 14
    first, second = shop.rows("knowledge"), shop.rows("knowledge", TOMORROW)
    assert {row["origin"] for row in second.values()} == {"last_good"}
    assert {k: row | {"origin": "tonight"} for k, row in second.items()} == first
    assert manifest.figures["calls"] == 0


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("empty", "empty"),
        ("reasoned_out", "truncated_by_reasoning"),
        ("refusal", "refusal"),
        ("echo", "echo"),
        ("loop", "repetition"),
        ("400", "bad_request"),
        ("500", "exhausted"),
    ],
)
def test_a_refused_answer_costs_one_subject_and_is_kept_with_its_reason(shop: Shop, mode: str, reason: str) -> None:
    with loopback(about("Film 3", mode)) as server:
        manifest = shop.run(server.base_url, llm={"max_attempts": 1})
    assert ("item.facts", "3") not in shop.rows("knowledge")
    assert len(shop.rows("knowledge")) == 13
    refused = shop.rows("refused")
    assert [(key, row["reason"], row["has_fallback"]) for key, row in refused.items()] == [(("item.facts", "3"), reason, False)]
    row = refused["item.facts", "3"]
    assert row["detail"]
    assert len(row["request_key"]) == 64
    assert manifest.rejected == {reason: 1}
    assert manifest.rejected_examples[reason][0]["subject_id"] == "3"
    assert manifest.figures["refused"] == {"item.facts": {reason: 1}}
    assert manifest.figures["coverage"]["item.facts"] == 0.875


def test_an_answer_with_fewer_words_than_the_template_asks_for_is_too_short(shop: Shop) -> None:
    with loopback(about("Film 3", "short")) as server:
        shop.run(server.base_url, knowledge={"min_words": 31})  # the loopback says 30 words
    assert {row["reason"] for row in shop.rows("refused").values()} == {"too_short"}
    assert shop.rows("knowledge") == {}


def test_a_refused_subject_keeps_the_last_good_knowledge(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url, llm={"revision": "r1"})
    with loopback(about("Film 3", "refusal")) as server:
        shop.run(server.base_url, date=TOMORROW, llm={"revision": "r2"})  # another model, so all are due again
        assert server.calls == 14
    knowledge = shop.rows("knowledge", TOMORROW)
    assert (knowledge["item.facts", "3"]["origin"], knowledge["item.facts", "3"]["model_revision"]) == ("last_good", "r1")
    assert {row["origin"] for key, row in knowledge.items() if key != ("item.facts", "3")} == {"tonight"}
    assert shop.rows("refused", TOMORROW)["item.facts", "3"]["has_fallback"] is True
    assert len(knowledge) == 14


def cut_at(tokens: int) -> Behaviour:
    """The prompt about Film 3 is cut as long as it may take no more than so many tokens."""

    def behave(call: Call) -> str:
        return "length" if about("Film 3", "cut")(call) == "cut" and call.body["max_tokens"] <= tokens else "ok"

    return behave


def test_a_cut_answer_is_asked_once_more_with_twice_the_tokens(shop: Shop) -> None:
    with loopback(cut_at(180)) as server:
        manifest = shop.run(server.base_url)
        assert server.calls == 15
        first, again = (orjson.loads(b) for b in server.bodies if b"Film 3 (" in b and b"<entry>" in b)
    assert again == first | {"max_tokens": 360}
    row = shop.rows("knowledge")["item.facts", "3"]
    assert row["text"].endswith(".")
    assert row["request_key"] != shop.rows("plan", stage="prompts")["item.facts", "3"]["request_key"]
    assert json.loads(look_up(shop.home.ledger, [row["request_key"]])[row["request_key"]].body) == again
    assert manifest.figures["retried_truncated"] == 1
    with loopback() as server:  # both answers are in the ledger
        shop.run(server.base_url, knowledge={"min_words": 11})
        assert server.calls == 0
    assert shop.rows("knowledge")["item.facts", "3"] == row


@pytest.mark.parametrize("accepts", [True, False])
def test_an_answer_that_is_cut_twice_keeps_its_whole_sentences_if_the_settings_accept_them(shop: Shop, accepts: bool) -> None:
    def behave(call: Call) -> str:
        return "long_cut" if about("Film 3", "cut")(call) == "cut" else "ok"

    with loopback(behave, answers={"long_cut": (answer_to("x", 40) + " And then", "length")}) as server:
        shop.run(server.base_url, knowledge={"accept_truncated_sentences": accepts})
        assert server.calls == 15
    if accepts:
        assert shop.rows("knowledge")["item.facts", "3"]["text"] == answer_to("x", 40)
        assert shop.rows("refused") == {}
    else:
        assert shop.rows("refused")["item.facts", "3"]["reason"] == "truncated"


def test_without_the_setting_a_cut_answer_is_not_asked_again(shop: Shop) -> None:
    with loopback(cut_at(180)) as server:
        shop.run(server.base_url, knowledge={"retry_truncated": False, "accept_truncated_sentences": False})
        assert server.calls == 14
    assert shop.rows("refused")["item.facts", "3"]["reason"] == "truncated"


def test_the_retry_does_not_pass_the_context(shop: Shop) -> None:
    with loopback(cut_at(180)) as server:
        shop.run(server.base_url, llm={"context_tokens": 400})
        sizes = sorted({json.loads(b)["max_tokens"] for b in server.bodies})
    assert sizes[0] == 180
    assert 180 < sizes[1] < 360


def test_what_the_deadline_leaves_unasked_is_reported_and_carried_forward(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url, llm={"revision": "r1"})
    with loopback(delay_s=0.2) as server:
        llm = {"revision": "r2", "deadline_s": 0.3, "concurrency": 2}
        manifest = shop.run(server.base_url, date=TOMORROW, llm=llm)
        answered = server.calls
    assert 2 <= answered < 14
    assert manifest.figures["stopped_by"] == "deadline"
    assert manifest.rejected == {"over_budget": 14 - answered}
    assert sum(manifest.figures["over_budget"].values()) == 14 - answered
    origins = [row["origin"] for row in shop.rows("knowledge", TOMORROW).values()]
    assert (origins.count("tonight"), origins.count("last_good")) == (answered, 14 - answered)


def test_a_server_that_is_not_there_leaves_no_partition_and_names_the_address(shop: Shop) -> None:
    with pytest.raises(ServerUnreachable, match=r"127\.0\.0\.1:9"):
        shop.run("http://127.0.0.1:9/v1")
    assert not shop.home.partition("knowledge", DAY).exists()
    assert not list((shop.home.path / "knowledge").glob("*.partial"))


def test_a_run_that_the_server_refuses_half_way_goes_on_where_it_stopped(shop: Shop) -> None:
    seen: list[Server] = []
    with loopback(lambda call: "ok" if call.number <= 5 else "401") as server:
        seen.append(server)
        with pytest.raises(Exception, match="401"):
            shop.run(server.base_url, llm={"concurrency": 1})
    with loopback() as server:
        manifest = shop.run(server.base_url)
        assert server.calls == 9
    assert manifest.figures["from_ledger"] == 5
    assert len(shop.rows("knowledge")) == 14


# ---- imports


def lines(shop: Shop, name: str, *rows: dict[str, Any] | str) -> str:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (shop.folder / name).write_text("\n".join(texts) + "\n")
    return name


def importing(shop: Shop, **files: str) -> dict[str, Any]:
    views = {name.replace("__", "."): file for name, file in files.items()}
    return {
        "prompts": {"views": list(views)},
        "knowledge": {"imports": views, "imports_folder": str(shop.folder), "imports_written_by": "a friend"},
    }


TEXT = "A text of enough words, written by somebody else before tonight, about what this one is and who may like it."


def test_imported_texts_need_no_server_and_say_who_wrote_them(shop: Shop) -> None:
    name = lines(shop, "items.jsonl", *({"item_id": n, "text": f"{n}: {TEXT}"} for n in range(1, 7)))
    manifest = shop.run(**importing(shop, item__facts=name))
    knowledge = shop.rows("knowledge")
    profiles = {r["subject_id"]: r for r in pq.read_table(shop.home.partition("histories", DAY).table("item_profile")).to_pylist()}
    assert sorted(knowledge) == [("item.facts", str(n)) for n in range(1, 7)]
    row = knowledge["item.facts", "4"]
    assert (row["text"], row["origin"], row["model"], row["asked_at"]) == (f"4: {TEXT}", "import", "a friend", NOW)
    assert (row["evidence_items"], row["evidence_newest_at"], row["cutoff_at"]) == ([], None, profiles["4"]["cutoff_at"])
    assert manifest.figures["coverage"] == {"item.facts": 0.75}
    assert manifest.figures["calls"] == 0
    assert not (shop.home.ledger / "answers.sqlite").exists()


def test_evidence_is_dated_by_the_users_own_interactions(shop: Shop) -> None:
    events = sorted((r["at"], r["item"]) for r in world.rows(6, 8, 6) if r["user"] == 2)
    seen = [item for _, item in events[:3]]
    name = lines(
        shop,
        "users.jsonl",
        {"user_id": 2, "text": TEXT, "evidence": seen},
        {"user_id": "3", "text": TEXT},
        {"user_id": 4, "text": TEXT, "evidence": []},
    )
    manifest = shop.run(**importing(shop, user__preference=name))
    knowledge = shop.rows("knowledge")
    history = {r["subject_id"]: r for r in pq.read_table(shop.home.partition("histories", DAY).table("history")).to_pylist()}
    newest = dt.datetime.fromtimestamp(events[2][0], dt.UTC)
    row = knowledge["user.preference", "2"]
    assert row["evidence_items"] == [str(i) for i in seen]
    assert row["evidence_users"] == ["2", "2", "2"]
    assert row["evidence_newest_at"] == row["cutoff_at"] == newest
    for user in ("3", "4"):
        assert knowledge["user.preference", user]["evidence_newest_at"] is None
        assert knowledge["user.preference", user]["cutoff_at"] == history[user]["cutoff_at"]
    assert any("2 imported texts of user.preference name no evidence" in sentence for sentence in manifest.warnings)


def test_each_line_that_may_not_serve_is_left_out_with_its_reason(shop: Shop) -> None:
    never = next(i for i in range(1, 9) if i not in {r["item"] for r in world.rows(6, 8, 6) if r["user"] == 6})
    name = lines(
        shop,
        "users.jsonl",
        {"user_id": 1, "text": TEXT},
        {"user_id": 1, "text": "again: " + TEXT},
        {"user_id": 1, "text": "again: " + TEXT},
        {"user_id": 6, "text": TEXT, "evidence": [never]},
        {"user_id": 77, "text": TEXT},
        {"user_id": 3, "text": "Too short."},
        {"user_id": 4, "text": " "},
        {"text": TEXT},
        {"user_id": None, "text": TEXT},
        {"user_id": "five", "text": TEXT},
        {"user_id": 5.5, "text": TEXT},
        {"user_id": True, "text": TEXT},
        {"user_id": 5},
        {"user_id": 5, "text": 5},
        {"user_id": 5, "text": TEXT, "evidence": "all"},
        {"user_id": 5, "text": TEXT, "evidence": [None]},
        "{broken",
        '["a list"]',
        "",
    )
    manifest = shop.run(**importing(shop, user__preference=name))
    assert list(shop.rows("knowledge")) == [("user.preference", "1")]
    assert manifest.rejected == {
        "duplicate_key": 2,
        "evidence_after_cutoff": 1,
        "unknown_subject": 1,
        "too_short": 1,
        "empty": 1,
        "missing_id": 2,
        "bad_row": 9,
    }
    assert {row["line"] for row in manifest.rejected_examples["bad_row"]} == set(range(10, 19))
    refused = pq.read_table(shop.home.partition("knowledge", DAY).table("refused")).to_pylist()
    assert sorted((r["subject_id"], r["reason"]) for r in refused) == [
        ("1", "duplicate_key"),
        ("3", "too_short"),
        ("4", "empty"),
        ("6", "evidence_after_cutoff"),
        ("77", "unknown_subject"),
    ]


def test_ids_that_are_strings_keep_spaces_and_emoji(tmp_path: Path) -> None:
    from kar.tables import IdTypes
    from kar.text.imports import read_imports

    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"item_id": "a b 🎬", "text": "t"}) + "\n" + json.dumps({"item_id": 7, "text": "t"}))
    found = read_imports(path, "item", IdTypes("string", "string"))
    assert found.rows.column("subject_id").to_pylist() == ["a b 🎬", "7"]


def test_a_line_imported_again_keeps_the_time_of_its_first_import(shop: Shop) -> None:
    name = lines(shop, "items.jsonl", *({"item_id": n, "text": f"{n}: {TEXT}"} for n in (1, 2)))
    shop.run(**importing(shop, item__facts=name))
    lines(shop, name, {"item_id": 1, "text": f"1: {TEXT}"}, {"item_id": 2, "text": f"changed: {TEXT}"})
    later = NOW + dt.timedelta(days=1)
    shop.run(date=TOMORROW, now=later, **importing(shop, item__facts=name))
    assert [row["asked_at"] for row in shop.rows("knowledge", TOMORROW).values()] == [NOW, later]


def test_a_text_that_may_not_serve_any_more_leaves_the_last_good_one(shop: Shop) -> None:
    name = lines(shop, "items.jsonl", {"item_id": 1, "text": TEXT}, {"item_id": 2, "text": TEXT})
    shop.run(**importing(shop, item__facts=name))
    lines(shop, name, {"item_id": 1, "text": "Short."})
    shop.run(date=TOMORROW, **importing(shop, item__facts=name))
    knowledge = shop.rows("knowledge", TOMORROW)
    assert list(knowledge) == [("item.facts", "1")]  # item 2 was withdrawn with its line
    assert (knowledge["item.facts", "1"]["origin"], knowledge["item.facts", "1"]["text"]) == ("last_good", TEXT)
    assert shop.rows("refused", TOMORROW)["item.facts", "1"]["has_fallback"] is True


def test_a_changed_file_of_texts_makes_the_stage_run_again_and_the_same_file_does_not(shop: Shop) -> None:
    name = lines(shop, "items.jsonl", {"item_id": 1, "text": TEXT})
    first = shop.run(**importing(shop, item__facts=name))
    assert shop.run(**importing(shop, item__facts=name)) == first
    lines(shop, name, {"item_id": 1, "text": TEXT + " And more."})
    assert shop.run(**importing(shop, item__facts=name)).recipe_sha != first.recipe_sha


def test_a_file_of_texts_that_is_not_there_is_a_settings_error(shop: Shop) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.jsonl for item\.facts"):
        shop.run(**importing(shop, item__facts="nowhere.jsonl"))


def test_one_view_is_imported_while_the_other_is_asked(shop: Shop) -> None:
    name = lines(shop, "items.jsonl", *({"item_id": n, "text": f"{n}: {TEXT}"} for n in range(1, 9)))
    sections = importing(shop, item__facts=name) | {"prompts": {"views": ["user.preference", "item.facts"]}}
    with loopback() as server:
        manifest = shop.run(server.base_url, **sections)
        assert server.calls == 6
    assert manifest.figures["origins"] == {"item.facts": {"import": 8}, "user.preference": {"tonight": 6}}


def test_one_generic_answer_for_everybody_is_refused_for_all_and_the_last_good_texts_stay(shop: Shop) -> None:
    generic = "This person enjoys a wide variety of films and likes good stories, strong characters and fine acting in general. "
    generic += "They look for movies that entertain, move and surprise, whatever the genre, the mood or the period may be."
    with loopback() as server:
        shop.run(server.base_url, llm={"revision": "r1"})
    with loopback(lambda call: "generic" if "<list>" in call.prompt else "ok", answers={"generic": (generic, "stop")}) as server:
        manifest = shop.run(
            server.base_url, TOMORROW, knowledge={"max_near_duplicates": 3}, llm={"revision": "r2"}, prompts={"max_age_days": 1}
        )
        assert server.calls == 14
    refused = shop.rows("refused", TOMORROW)
    assert set(refused) == {("user.preference", str(user)) for user in range(1, 7)}
    assert {row["reason"] for row in refused.values()} == {"near_duplicate"}
    assert all(row["has_fallback"] and row["answer"] == generic for row in refused.values())
    first = shop.rows("knowledge")
    for key, row in shop.rows("knowledge", TOMORROW).items():
        assert row["origin"] == ("last_good" if key in refused else "tonight")
        assert (row["text"] == first[key]["text"]) or key not in refused
    assert manifest.rejected["near_duplicate"] == 6


def test_how_the_asking_went_is_written_down_look_by_look(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url)
    looks = pq.read_table(shop.home.partition("knowledge", DAY).table("pace")).to_pylist()
    assert looks, "also a short run is looked at once"
    assert looks[-1]["answered"] == 14
    assert {look["endpoint"] for look in looks} == {0}
    assert [look["second"] for look in looks] == sorted(look["second"] for look in looks)


def test_with_the_batch_provider_nothing_is_asked_and_what_has_come_is_taken(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url)
    earlier = shop.rows("knowledge")
    batch = {"provider": "batch", "revision": "r9"}  # another revision: the ledger's answers are not those
    manifest = shop.run(llm=batch)
    assert manifest.rejected == {"awaits_batch": 14}
    assert (manifest.figures["calls"], manifest.figures["from_ledger"], manifest.figures["over_budget"]) == (0, 0, {})
    assert manifest.figures["awaits_batch"] == {"item.facts": 8, "user.preference": 6}
    assert (shop.rows("knowledge"), shop.rows("refused")) == ({}, {})

    requests = shop.home.partition("prompts", DAY).table("request")
    rows = pq.read_table(requests).to_pylist()
    lines = [openai_line(row["request_key"], completion(f"{answer_to(row['body'])}")) for row in rows[:9]]
    lines += [openai_line(rows[9]["request_key"], {"error": {"message": "too long"}}, status=400)]
    (shop.folder / "results.jsonl").write_text("\n".join(lines))
    with Results([shop.folder / "results.jsonl"]) as results, Ledger.open(shop.home.ledger) as ledger:
        made = take(stream(requests), results, ledger, NOW - dt.timedelta(hours=2))
        arrivals.note(shop.home, DAY, "batch", made.keys, NOW)
    manifest = shop.run(llm=batch)
    assert manifest.rejected == {"awaits_batch": 4, "bad_request": 1}
    assert manifest.figures["from_ledger"] == 9
    found = shop.rows("knowledge")
    assert {row["text"] for row in found.values()} == {answer_to(row["body"]) for row in rows[:9]}
    assert {row["origin"] for row in found.values()} == {"tonight"}
    assert [row["detail"] for row in shop.rows("refused").values()] == ['400 {"error":{"message":"too long"}}']
    assert len(earlier) == 14


def test_while_a_batch_is_out_the_last_good_knowledge_stands_in(shop: Shop) -> None:
    with loopback() as server:
        shop.run(server.base_url)
    later = DAY + dt.timedelta(days=5)
    batch = {"provider": "batch", "extra_body": {"seed": 7}}  # another body: the ledger does not hold its answer
    manifest = shop.run(date=later, now=NOW + dt.timedelta(days=5), prompts={"max_age_days": 1}, llm=batch)
    assert manifest.rejected == {"awaits_batch": 14}
    assert {row["origin"] for row in shop.rows("knowledge", later).values()} == {"last_good"}
    assert len(shop.rows("knowledge", later)) == 14
