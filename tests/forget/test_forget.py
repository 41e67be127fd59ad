"""`kar forget` over a home that the real stages made: what goes, what stays, what a killed run leaves."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import kar.release
from kar import flow
from kar import run as runner
from kar.errors import AlreadyRunning, SourceError, StageError
from kar.forget import Subjects, forget, ids_in
from kar.forget.subjects import subjects_of
from kar.llm import ledger
from kar.llm.batch.forgetting import drop_lines
from kar.llm.batch.lines import request_line
from kar.llm.batch.nights import Night, Nights
from kar.llm.key import request_key
from kar.llm.ledger import Answer, Ledger
from kar.settings import Settings
from kar.store import Home, Manifest, read_forgotten
from tests import world
from tests.cli.in_process import kar as kar_command
from tests.forget.homes import DAY, ITEM, LATER, NOW, UNTITLED, USER, WORDS, begin, everything, holding, settings
from tests.llm.batch.conftest import completion, openai_line
from tests.llm.loopback import loopback

THE_USER, THE_ITEM = Subjects(users=frozenset({USER})), Subjects(items=frozenset({ITEM}))
NIGHTLY = [name for name in flow.NAMES if name not in flow.TRAINING]
BEGINNING = WORDS[:60]


def request_of(home: Home, subject: str) -> dict[str, Any]:
    rows = pq.read_table(home.partition("prompts", DAY).table("request")).to_pylist()
    return next(row for row in rows if row["subject_id"] == subject)


def answer_of(home: Home, subject: str) -> str:
    key = request_of(home, subject)["request_key"]
    return ledger.look_up(home.ledger, [key])[key].text


def tables(home: Home) -> dict[str, str]:
    """Every table and matrix → digest."""
    found = [path for path in sorted(home.path.rglob("*")) if path.suffix in (".parquet", ".npy", ".safetensors")]
    return {str(path.relative_to(home.path)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.slow
def test_no_byte_about_a_user_is_left_and_what_is_about_others_stays(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    answer = answer_of(home, USER)
    before = holding(home.path, USER, BEGINNING, answer)
    assert len(before[USER]) > 15
    assert any(name.startswith("ledger") for name in before[BEGINNING])
    assert any(name.startswith("ledger") for name in before[answer])
    others = knowledge_of_others(home)
    vectors = kar.release.open(home.published).vectors("user", "user.preference", ["u1", "u2", "u3", USER])[0]

    receipt = forget(settings(data), home, THE_USER, LATER)

    assert holding(home.path, USER, BEGINNING, answer) == {USER: [], BEGINNING: [], answer: []}
    assert knowledge_of_others(home) == others
    release = kar.release.open(home.published, verify=True)
    again, is_missing = release.vectors("user", "user.preference", ["u1", "u2", "u3", USER])
    assert is_missing.tolist() == [False, False, False, True]
    assert np.array_equal(again[:3], vectors[:3])
    assert ledger.verify(home.ledger).faults == 0
    assert receipt.is_complete
    assert receipt.places["ledger"]["rows_removed"] >= 1


def knowledge_of_others(home: Home) -> list[dict[str, Any]]:
    table = pq.read_table(home.partition("knowledge", DAY).table("knowledge"))
    kept = table.filter(pc.invert(pc.is_in(table["subject_id"], value_set=pa.array([USER, ITEM, UNTITLED]))))
    rows: list[dict[str, Any]] = kept.drop_columns(["evidence_users", "evidence_items"]).to_pylist()
    assert len(rows) > 30
    return rows


def test_what_the_user_wrote_leaves_the_item_that_it_described_and_the_requests_that_showed_it(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    profile = pq.read_table(home.partition("histories", DAY).table("item_profile"), filters=[("item_id", "=", UNTITLED)]).to_pylist()[0]
    assert WORDS in profile["text"]
    assert USER in profile["evidence_users"]
    assert BEGINNING in request_of(home, UNTITLED)["body"]
    forget(settings(data), home, THE_USER, LATER)
    left = pq.read_table(home.partition("histories", DAY).table("item_profile"), filters=[("item_id", "=", UNTITLED)]).to_pylist()[0]
    assert "well enough" in left["text"]
    assert "marmalade" not in left["text"]
    assert len(left["evidence_users"]) == len(left["evidence_items"]) == len(profile["evidence_users"]) - 1
    assert left["evidence_sha"] != profile["evidence_sha"]
    assert (left["event_count"], left["rating_mean"]) == (profile["event_count"], profile["rating_mean"])


def test_no_byte_about_an_item_is_left_and_the_histories_of_its_users_close_up(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    before = holding(home.path, ITEM)[ITEM]
    assert any("refused" in name for name in before)
    receipt = forget(settings(data), home, THE_ITEM, LATER)
    assert holding(home.path, ITEM)[ITEM] == []
    assert receipt.places["histories.history"]["rows_edited"] > 0
    assert receipt.places["histories.item_neighbour"]["rows_removed"] > 0
    sequence = pq.read_table(home.partition("examples", DAY).table("sequence")).to_pandas()
    assert (sequence.groupby("user_id")["position"].apply(lambda p: (p.to_numpy() == np.arange(len(p))).all())).all()
    joined = pq.read_table(home.partition("examples", DAY).table("example")).to_pandas()
    assert joined["example_id"].tolist() == list(range(len(joined)))
    both = joined.merge(sequence, on=["user_id", "position"], suffixes=("", "_own"))
    assert len(both) == len(joined)
    assert (both["item_id"] == both["item_id_own"]).all()
    predicted = pq.read_table(home.partition("adaptor", DAY).table("prediction"))["example_id"].to_pylist()
    assert set(predicted) <= set(joined.loc[joined["split"] == "test", "example_id"])
    history = pq.read_table(home.partition("histories", DAY).table("history")).to_pylist()
    assert all(len(r["item_ids"]) == len(r["ratings"]) == len(r["event_ats"]) == len(r["titles"]) for r in history)


def test_histories_of_a_forgotten_item_are_what_the_stage_would_make_without_it(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    forget(settings(data), home, THE_ITEM, LATER)
    rewritten = pq.read_table(home.partition("histories", DAY).table("history"))
    # in time mode a cap shows older events in the place of a forgotten one; in per_user mode half of the rest would be history
    shown = {row["user_id"]: row for row in rewritten.to_pylist()}
    sources = pq.read_table(home.partition("sources", DAY).table("interaction")).to_pandas()
    for user, row in shown.items():
        own = sources[sources["user_id"] == user]["item_id"].tolist()
        assert row["item_ids"] == own[: row["position"]][-6:]


def test_a_rerun_of_the_forgotten_nights_does_nothing_and_asks_nothing(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    forget(settings(data), home, THE_USER, LATER)
    before = {path: path.stat().st_mtime_ns for path in home.path.rglob("manifest.json")}
    with loopback() as server:
        chosen = settings(data, server.base_url)
        runner.run_all(chosen, home, DAY, lambda: LATER)
        runner.run_all(chosen, home, DAY + dt.timedelta(days=1), lambda: LATER, NIGHTLY)
        assert server.calls == 0
    assert {path: path.stat().st_mtime_ns for path in home.path.rglob("manifest.json")} == before
    assert len(before) > 15


def test_the_next_night_with_the_same_files_does_not_bring_the_user_back(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    forget(settings(data), home, THE_USER, LATER)
    night = DAY + dt.timedelta(days=2)
    with loopback() as server:
        runner.run_all(settings(data, server.base_url), home, night, lambda: LATER, NIGHTLY)
        assert all(BEGINNING not in body.decode() for body in server.bodies)
    made = Manifest.read(home.partition("sources", night).manifest_path)
    raw = (data / "interactions.csv").read_text().count(USER) + 1
    assert made.rejected["forgotten"] == raw
    assert "forgotten" not in made.rejected_examples
    assert USER in (data / "users.csv").read_text()
    assert holding(home.path, USER, BEGINNING) == {USER: [], BEGINNING: []}


def test_an_as_of_join_goes_on_over_the_new_releases_at_the_old_instants(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    at = [NOW + dt.timedelta(hours=h) for h in (-1, 1, 30)]
    examples = pa.table({"user_id": ["u1", USER, "u2"], "item_id": ["i1", "i2", "i3"], "event_at": pa.array(at, pa.timestamp("us", "UTC"))})
    before = kar.release.join(home.published, examples)
    receipt = forget(settings(data), home, THE_USER, LATER)
    after = kar.release.join(home.published, examples)
    assert after.release_numbers.tolist() == before.release_numbers.tolist()
    assert [receipt.releases[release.id] for release in before.releases] == [release.id for release in after.releases]
    assert before.user_rows[1] >= 0
    assert after.user_rows.tolist()[1] == -1
    assert sorted(path.name for path in (home.published / "releases").iterdir()) == sorted(receipt.releases.values())
    rows = pq.read_table(home.partition("features", DAY).table("release")).to_pylist()
    manifest = home.published / "releases" / rows[0]["release_id"] / "manifest.json"
    assert rows[0]["manifest_sha"] == hashlib.sha256(manifest.read_bytes()).hexdigest()


def test_a_leased_release_stays_and_is_named_until_the_lease_has_run_out(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    held = kar.release.open(home.published).id
    lease = {"id": "one", "reader": "nightly training", "release": held, "pid": 1, "host": "here", "taken_at": NOW.isoformat()}
    lease["expires_at"] = (LATER + dt.timedelta(hours=1)).isoformat()
    (home.published / "leases").mkdir(exist_ok=True)
    (home.published / "leases" / "one.json").write_text(json.dumps(lease))
    receipt = forget(settings(data), home, THE_USER, LATER)
    assert list(receipt.still_leased) == [held]
    assert "nightly training" in receipt.still_leased[held]
    assert not receipt.is_complete
    assert [name for name in holding(home.path, USER)[USER] if held not in name] == []
    assert (home.published / "releases" / held / "manifest.json").is_file()
    later = forget(settings(data), home, THE_USER, LATER + dt.timedelta(hours=2))
    assert later.is_complete
    assert holding(home.path, USER)[USER] == []
    assert kar.release.open(home.published, verify=True).id == receipt.releases[held]


def test_a_dry_run_counts_what_a_real_run_takes_and_writes_nothing(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    (home.path / "adaptor" / ".work" / "date=2026-11-19").mkdir(parents=True, exist_ok=True)
    before = everything(home.path)
    dry = forget(settings(data), home, THE_USER, LATER, is_dry=True)
    after = {name: content for name, content in everything(home.path).items() if not name.endswith((".lock", "-wal", "-shm"))}
    assert after == {name: content for name, content in before.items() if not name.endswith((".lock", "-wal", "-shm"))}
    real = forget(settings(data), home, THE_USER, LATER)
    # which row about the release changes is only known once it is published
    assert {k: v for k, v in real.places.items() if k != "features.release"} == dry.places


def test_rows_in_shards_their_free_pages_and_their_retries_go_too(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    request = request_of(home, USER)
    body = request["body"].replace('"max_tokens":', '"max_tokens":1')
    later = Answer(
        **dict.fromkeys(("finish_reason", "model", "template_version", "detail"), ""),
        **dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "lost_tokens"), 0),
        **dict.fromkeys(("asked_at", "started_at", "ended_at"), NOW),
        key=request_key(body.encode(), request["revision"]),
        body=body,
        text="PLANTED-RETRY said again at length",
        revision=request["revision"],
        attempts=1,
        status="ok",
        retry_of=request["request_key"],
    )
    with Ledger.open(home.ledger, shard="late") as opened:
        opened.put(later)
    with sqlite3.connect(home.ledger / "answers.late.sqlite") as raw:  # a page that was freed and not overwritten
        raw.execute("PRAGMA secure_delete = OFF")
        raw.execute("CREATE TABLE gone (words TEXT)")
        raw.executemany("INSERT INTO gone VALUES (?)", [("PLANTED-FREE " * 400,)] * 20)
        raw.execute("DROP TABLE gone")
    raw.close()
    found = holding(home.path, "PLANTED-RETRY", "PLANTED-FREE")
    assert found == {"PLANTED-RETRY": ["ledger/answers.late.sqlite"], "PLANTED-FREE": ["ledger/answers.late.sqlite"]}
    rows = ledger.stats(home.ledger).rows
    forget(settings(data), home, THE_USER, LATER)
    assert holding(home.path, "PLANTED-RETRY", "PLANTED-FREE", BEGINNING) == {"PLANTED-RETRY": [], "PLANTED-FREE": [], BEGINNING: []}
    left = ledger.stats(home.ledger).rows
    assert left == rows - 3  # the user's answer, its retry, and the item whose prompt showed the review
    assert ledger.verify(home.ledger).faults == 0


def test_an_export_of_before_does_not_bring_the_answers_back(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    ledger.export(home.ledger, tmp_path / "old.parquet")
    forget(settings(data), home, THE_USER, LATER)
    rows = ledger.stats(home.ledger).rows
    merged = ledger.merge(home.ledger, tmp_path / "old.parquet", read_forgotten(home).holds_request)
    assert merged.forgotten == 2
    assert merged.added == 0
    assert ledger.stats(home.ledger).rows == rows


def test_the_receipt_counts_and_names_nobody(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    forget(settings(data), home, THE_USER, LATER)
    paths = list((home.path / "forgotten" / "receipts").glob("*.json"))
    assert len(paths) == 1
    text = paths[0].read_text()
    assert USER not in text
    assert "marmalade" not in text
    found = json.loads(text)
    assert found["users"] == [read_forgotten(home).digest("user", USER)]
    assert found["places"]["sources.user"] == {"rows_removed": 2}
    assert found["at"] == LATER.isoformat()
    assert not (home.path / "forgotten" / "unfinished.json").exists()


def test_an_unknown_id_is_named_and_nobody_is_forgotten(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    before = tables(home)
    with pytest.raises(SourceError, match="user nobody-1"):
        forget(settings(data), home, Subjects(users=frozenset({USER, "nobody-1"})), LATER)
    assert tables(home) == before
    assert not read_forgotten(home)


def test_a_running_stage_is_named_and_nothing_is_touched(tmp_path: Path) -> None:
    import fcntl

    home, data = begin(tmp_path)
    with (home.path / "knowledge" / f".date={DAY}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning, match=f"knowledge is running for {DAY}"):
            forget(settings(data), home, THE_USER, LATER)
    with Ledger.open(home.ledger), pytest.raises(AlreadyRunning, match="ledger"):
        forget(settings(data), home, THE_USER, LATER)
    assert USER in "".join(holding(home.path, USER)[USER]) or holding(home.path, USER)[USER]


KILLED = """
import datetime as dt, os, signal, sys
from pathlib import Path
from kar.forget import Subjects, forget
from kar.store import Home
from tests.forget.homes import LATER, USER, settings

left = int(sys.argv[3])
def hook(event, args):
    global left
    if event in ("os.rename", "os.remove", "shutil.rmtree", "os.link"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
forget(settings(Path(sys.argv[2])), Home.of("world", Path(sys.argv[1])), Subjects(users=frozenset({USER})), LATER)
print(left)
"""


def run_killed(home: Home, data: Path, after: int) -> int:
    """Forget in a process that kills itself before its n-th change to a name on the disk; its exit code."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(home.root), str(data), str(after)], env=environment, capture_output=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()[-2000:]
    return done.returncode


def killed_and_finished(folder: Path, after: list[int]) -> tuple[Home, Path]:
    home, data = begin(folder)
    assert [run_killed(home, data, one) for one in after] == [-signal.SIGKILL] * len(after)
    kar.release.open(home.published, verify=True)  # CURRENT always opens
    return home, data


def assert_as_if_never_killed(home: Home, data: Path, folder: Path) -> None:
    receipt = forget(settings(data), home, THE_USER, LATER)
    twin, its_data = begin(folder / "twin")
    wanted = forget(settings(its_data), twin, THE_USER, LATER)
    assert holding(home.path, USER, BEGINNING) == {USER: [], BEGINNING: []}
    assert tables(home) == tables(twin)
    assert receipt.releases == wanted.releases
    assert {k: v for k, v in receipt.places.items() if "remains" not in k} == wanted.places  # what the kill left half written is more
    with loopback() as server:
        runner.run_all(settings(data, server.base_url), home, DAY, lambda: LATER)
        assert server.calls == 0
    assert tables(home) == tables(twin)


@pytest.mark.slow
def test_a_run_that_was_killed_twice_is_gone_on_with_and_ends_as_if_it_never_had_been(tmp_path: Path) -> None:
    home, data = killed_and_finished(tmp_path, [11, 61])
    with pytest.raises(StageError, match="stopped before its end"):
        forget(settings(data), home, Subjects(users=frozenset({"u1"})), LATER)
    assert_as_if_never_killed(home, data, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 3, 5, 8, 14, 18, 23, 29, 36, 44, 53, 70, 85, 100])
def test_a_run_may_be_killed_at_any_change_of_a_name(tmp_path: Path, after: int) -> None:
    home, data = killed_and_finished(tmp_path, [after])
    assert_as_if_never_killed(home, data, tmp_path)


def test_batches_lose_the_requests_and_the_receipt_says_what_the_provider_was_sent(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    own, other = request_of(home, USER), request_of(home, "u1")
    folder = home.path / "batches"
    folder.mkdir()
    columns = ["request_key", "revision", "body", "prompt_tokens", "answer_tokens", "template_version"]
    pq.write_table(pa.Table.from_pylist([own, other]).select(columns), folder / "night-0001.parquet")
    lines = [request_line(row["request_key"], row["body"].encode()).decode() for row in (own, other)]
    (folder / "night-0001.jsonl").write_text("".join(lines))
    (folder / "night-0001.output.jsonl").write_text(
        "".join(openai_line(row["request_key"], completion(f"said of {row['subject_id']}")) + "\n" for row in (own, other))
    )
    night = Night("night-0001", DAY.isoformat(), "http://127.0.0.1:9/v1", NOW.isoformat(), 2, 20, 100, "file-1", "batch_7", "in_progress")
    Nights(home).save(night)
    receipt = forget(settings(data), home, THE_USER, LATER)
    assert receipt.places["batches"] == {"requests_removed": 1, "lines_removed": 2}
    assert [what for what in receipt.not_done if "batch_7" in what]
    assert pq.read_table(folder / "night-0001.parquet")["request_key"].to_pylist() == [other["request_key"]]
    assert (folder / "night-0001.jsonl").read_text() == lines[1]
    assert holding(home.path, USER, BEGINNING) == {USER: [], BEGINNING: []}


def test_results_that_come_later_for_a_forgotten_request_are_not_kept(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    own, other = request_of(home, USER), request_of(home, "u1")
    forget(settings(data), home, THE_USER, LATER)
    path = tmp_path / "results.jsonl"
    path.write_text("".join(openai_line(row["request_key"], completion("late words")) + "\n" for row in (own, other)))
    assert drop_lines(path, read_forgotten(home).holds_request) == 1
    assert other["request_key"] in path.read_text()
    assert own["request_key"] not in path.read_text()


def test_logs_lose_their_lines_work_of_killed_runs_goes_and_a_strange_file_is_named(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    work = home.path / "adaptor" / ".work" / "date=2026-11-18"
    work.mkdir(parents=True)
    (work / "state.bin").write_bytes(USER.encode())
    crashed = home.path / "knowledge" / ".date=2026-11-18-0a1b2c3d.partial"
    crashed.mkdir()
    (crashed / "knowledge.parquet").write_bytes(USER.encode())
    (home.path / "server.log").write_text(f"12:00 asked about {USER}\n12:01 asked about u1\n12:02 said {WORDS}\n")
    (home.path / "notes.docx").write_bytes(b"\x00\x01 " + USER.encode())
    receipt = forget(settings(data), home, THE_USER, LATER)
    assert (home.path / "server.log").read_text() == "12:01 asked about u1\n"
    assert not work.exists()
    assert not crashed.exists()
    assert [what for what in receipt.not_done if "notes.docx" in what]
    assert holding(home.path, USER)[USER] == ["notes.docx"]


def test_ids_come_from_a_file_too_and_the_exit_code_says_what_happened(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    (tmp_path / "shop.toml").write_text(as_toml(settings(data)))
    (tmp_path / "ids.txt").write_text(f"{USER}\n\nu5\n")
    rows = pq.read_table(home.partition("sources", DAY).table("user")).num_rows
    at = ("--settings", "shop.toml")
    assert kar_command(tmp_path, "forget", "user", *at).returncode == 2
    assert kar_command(tmp_path, "forget", "nobody", "1", *at).returncode == 2
    unknown = kar_command(tmp_path, "forget", "user", "u999", *at)
    assert (unknown.returncode, "user u999" in unknown.stderr) == (1, True)
    dry = kar_command(tmp_path, "forget", "user", "--file", "ids.txt", "--dry-run", *at)
    assert (dry.returncode, "would forget 2 " in dry.stdout) == (0, True)
    assert pq.read_table(home.partition("sources", DAY).table("user")).num_rows == rows
    done = kar_command(tmp_path, "forget", "user", "--file", "ids.txt", *at)
    assert (done.returncode, "forgot 2 " in done.stdout, USER in done.stdout) == (0, True, False)
    assert pq.read_table(home.partition("sources", DAY).table("user")).num_rows == rows - 2


def as_toml(chosen: Settings) -> str:
    """Settings as a file; of values that TOML has."""

    def value(one: object) -> str:
        if isinstance(one, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {value(v)}" for k, v in one.items() if v is not None) + "}"
        return json.dumps(one)

    told = chosen.model_dump(exclude_unset=True)
    return "\n".join(f"{name} = {value(section)}" for name, section in told.items())


def test_what_is_no_number_is_refused_where_ids_are_numbers_and_a_list_of_nobody_too(tmp_path: Path) -> None:
    chosen = world.settings(tmp_path)
    assert subjects_of(chosen, ["007", " 42 "], []).users == {"7", "42"}
    with pytest.raises(SourceError, match="'alice' is no user id"):
        subjects_of(chosen, ["alice"], [])
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(SourceError, match="holds no id"):
        ids_in(tmp_path / "empty.txt")
    with pytest.raises(SourceError, match="cannot be read"):
        ids_in(tmp_path / "none.txt")


def test_a_night_after_a_replay_of_the_forgotten_stays_a_no_op(tmp_path: Path) -> None:
    home, data = begin(tmp_path)
    second = DAY + dt.timedelta(days=1)
    refused = pq.read_table(home.partition("knowledge", DAY).table("refused")).to_pylist()
    own = next(row for row in refused if row["subject_id"] == ITEM)
    asked = request_of(home, ITEM)
    replayed = Answer(
        **dict.fromkeys(("finish_reason", "model", "template_version", "detail"), ""),
        **dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "lost_tokens"), 0),
        **{name: NOW + dt.timedelta(hours=2) for name in ("asked_at", "started_at", "ended_at")},
        key=own["request_key"],
        body=asked["body"],
        text="asked once more",
        revision=asked["revision"],
        attempts=1,
        status="ok",
    )
    with Ledger.open(home.ledger) as opened:
        opened.put(replayed)
    chosen = settings(data)
    with loopback() as server:
        asking = settings(data, server.base_url)
        assert runner.run_all(asking, home, second, lambda: LATER, ["prompts"])[0].made_at == LATER.isoformat()  # the replay is news
        made = Manifest.read(home.partition("prompts", second).manifest_path)
        forget(chosen, home, THE_ITEM, LATER)
        again = runner.run_all(asking, home, second, lambda: LATER + dt.timedelta(hours=1), ["prompts"])[0]
    assert again.made_at == LATER.isoformat()
    assert again.recipe["facts"]["replayed_sha"] != made.recipe["facts"]["replayed_sha"]
