"""Results back into the ledger: matched, counted, never dropped without a word, never twice."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kar.errors import SourceError
from kar.llm import arrivals
from kar.llm.batch.importing import Imported, take
from kar.llm.batch.lines import read_result
from kar.llm.batch.planned import pending
from kar.llm.batch.results import Results
from kar.llm.ledger import Answer, Ledger, look_up
from kar.store import Home
from tests.llm.batch.conftest import completion, openai_line, vllm_line, write_requests

NOW = dt.datetime(2026, 11, 21, 9, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(hours=3)


@dataclass
class Night:
    """Six requests and an empty ledger."""

    folder: Path
    rows: list[dict[str, Any]]

    @property
    def keys(self) -> list[str]:
        return [row["request_key"] for row in self.rows]

    def take(self, *files: str, as_of: dt.datetime = NOW) -> Imported:
        """Import result files, given as texts."""
        paths = [self.folder / f"results-{n}.jsonl" for n in range(len(files))]
        for path, text in zip(paths, files, strict=True):
            path.write_text(text)
        requests = pending(self.folder / "request.parquet", {}, Counter())
        with Results(paths) as results, Ledger.open(self.folder / "ledger") as ledger:
            return take(requests, results, ledger, as_of)

    def ledger(self) -> dict[str, list[Answer]]:
        with Ledger.open(self.folder / "ledger") as ledger:
            return ledger.find(self.keys)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path, write_requests(tmp_path / "request.parquet", [f"Film {n}" for n in range(6)]))


def test_an_answer_arrives_with_all_that_the_server_said_of_it(night: Night) -> None:
    body = completion(
        "Bold and bright.",
        "length",
        prompt_tokens_details={"cached_tokens": 4},
        completion_tokens_details={"reasoning_tokens": 5},
    )
    made = night.take(openai_line(night.keys[2], body) + "\n")
    assert (made.answered, made.unanswered, made.prompt_tokens, made.completion_tokens) == (1, 5, 12, 7)
    assert night.ledger() == {
        night.keys[2]: [
            Answer(
                key=night.keys[2],
                body=night.rows[2]["body"],
                text="Bold and bright.",
                finish_reason="length",
                prompt_tokens=12,
                cached_tokens=4,
                completion_tokens=7,
                reasoning_tokens=5,
                lost_tokens=0,
                model="tiny-2026",
                revision="r1",
                template_version="t@1:abc",
                attempts=1,
                status="ok",
                detail="",
                asked_at=NOW,
                started_at=dt.datetime(2026, 11, 21, 1, tzinfo=dt.UTC),
                ended_at=NOW,
            )
        ]
    }


def test_results_may_come_in_any_order_and_in_several_files_of_either_form(night: Night) -> None:
    first = "\n".join(openai_line(night.keys[n], completion(f"answer {n}")) for n in (5, 1, 3))
    second = "\n".join(vllm_line(night.keys[n], completion(f"answer {n}")) for n in (4, 0, 2)) + "\n\n"
    made = night.take(first, second)
    assert (made.answered, made.unanswered) == (6, 0)
    held = look_up(night.folder / "ledger", night.keys)
    assert [held[key].text for key in night.keys] == [f"answer {n}" for n in range(6)]


def test_a_second_import_changes_nothing(night: Night) -> None:
    lines = [
        openai_line(night.keys[0], completion("good")),
        openai_line(night.keys[1], {"error": {"message": "too long", "type": "invalid_request_error"}}, status=400),
        openai_line(night.keys[2], None, error={"code": "batch_expired", "message": "This request could not be executed in time."}),
    ]
    first = night.take("\n".join(lines))
    before = night.ledger()
    second = night.take("\n".join(lines), as_of=LATER)
    assert (first.answered, first.refused, first.exhausted, first.known) == (1, 1, 1, 0)
    assert (second.answered, second.refused, second.exhausted, second.known) == (0, 0, 0, 3)
    assert second.keys == []
    assert night.ledger() == before
    assert len(before) == 3


@pytest.mark.parametrize(
    ("line", "status", "detail"),
    [
        (openai_line("K", {"error": {"message": "too long"}}, status=400), "bad_request", '400 {"error":{"message":"too long"}}'),
        (openai_line("K", {"error": {"message": "slow down"}}, status=429), "exhausted", '429 {"error":{"message":"slow down"}}'),
        (openai_line("K", {"error": {"message": "oops"}}, status=500), "exhausted", '500 {"error":{"message":"oops"}}'),
        (openai_line("K", {"error": {"message": "key"}}, status=401), "exhausted", '401 {"error":{"message":"key"}}'),
        (openai_line("K", None, error={"code": "batch_expired", "message": "not in time"}), "exhausted", "batch_expired not in time"),
        (openai_line("K", None, error={"code": "batch_cancelled", "message": "was stopped"}), "exhausted", "batch_cancelled was stopped"),
        (vllm_line("K", None, status=400, error="context length is 2048"), "bad_request", "400 context length is 2048"),
        (
            vllm_line("K", None, status=400, error={"error": {"message": "bad schema", "code": 400}}),
            "bad_request",
            '400 {"error":{"message":"bad schema","code":400}}',
        ),
        (openai_line("K", {"choices": []}), "exhausted", "200 without choices[0].message.content"),
    ],
)
def test_a_failed_line_becomes_a_failed_row_with_the_server_s_words(night: Night, line: str, status: str, detail: str) -> None:
    night.take(line.replace('"K"', f'"{night.keys[0]}"'))
    (row,) = night.ledger()[night.keys[0]]
    assert (row.status, row.detail, row.text, row.prompt_tokens) == (status, detail, "", 0)


def test_a_failure_never_hides_an_answer_and_an_answer_follows_a_failure(night: Night) -> None:
    failed = openai_line(night.keys[0], None, error={"code": "batch_expired", "message": "not in time"})
    good = openai_line(night.keys[0], completion("good"))
    made = night.take(failed, good)
    assert (made.answered, made.exhausted, made.repeated) == (1, 0, 1)
    assert night.take(failed, as_of=LATER).known == 1
    assert [row.status for row in night.ledger()[night.keys[0]]] == ["ok"]
    night.take(openai_line(night.keys[1], None, error={"code": "batch_expired", "message": "x"}))
    assert night.take(openai_line(night.keys[1], completion("late")), as_of=LATER).answered == 1
    assert [row.status for row in night.ledger()[night.keys[1]]] == ["exhausted", "ok"]


def test_what_comes_is_announced_before_it_is_in_the_ledger(night: Night) -> None:
    (night.folder / "r.jsonl").write_text("\n".join(openai_line(key, completion("x")) for key in night.keys[:2]))
    requests = pending(night.folder / "request.parquet", {}, Counter())

    def killed(keys: list[str]) -> None:
        assert sorted(keys) == sorted(night.keys[:2])
        assert look_up(night.folder / "ledger", night.keys) == {}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Results([night.folder / "r.jsonl"]) as results, Ledger.open(night.folder / "ledger") as ledger:
        take(requests, results, ledger, NOW, killed)
    assert night.ledger() == {}


def test_what_nobody_asked_for_and_what_is_no_result_is_counted_and_named(night: Night) -> None:
    lines = [
        openai_line("somebody-else-s", completion("x")),
        '{"custom_id": "cut off',
        openai_line(night.keys[0], completion("good")),
        "",
        '{"response": {"status_code": 200}, "error": null}',
        '{"custom_id": "k", "method": "POST", "url": "/v1/chat/completions", "body": {}}',
        "[1, 2]",
    ]
    made = night.take("\n".join(lines))
    assert made.answered == 1
    assert (made.unknown.count, made.unknown.examples) == (1, ["somebody-else-s"])
    assert (made.faulty.count, made.faulty.examples) == (
        4,
        [
            "results-0.jsonl line 2: it is no JSON",
            "results-0.jsonl line 5: it has no custom_id",
            "results-0.jsonl line 6: it has neither response nor error: a request line?",
            "results-0.jsonl line 7: it has no custom_id",
        ],
    )


def test_two_subjects_with_one_prompt_share_one_answer(tmp_path: Path) -> None:
    night = Night(tmp_path, write_requests(tmp_path / "request.parquet", ["same", "same", "same", "other", "same"]))
    made = night.take(openai_line(night.keys[0], completion("good")))
    assert (made.answered, made.known, made.unanswered) == (1, 0, 1)


def test_a_line_without_end_is_a_fault_and_the_next_line_is_read(night: Night) -> None:
    huge = openai_line(night.keys[0], completion("x" * (17 * 2**20)))
    made = night.take(huge + "\n" + openai_line(night.keys[1], completion("good")))
    assert made.answered == 1
    assert made.faulty.count == 1
    assert "line 1: it is longer than" in made.faulty.examples[0]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.jsonl cannot be read: No such file"):
        Results([tmp_path / "nowhere.jsonl"])


def test_counts_that_the_server_left_out_are_estimated(night: Night) -> None:
    body = completion("a" * 41)
    del body["usage"]
    night.take(openai_line(night.keys[3], body))
    (row,) = night.ledger()[night.keys[3]]
    assert (row.prompt_tokens, row.completion_tokens) == (13, 11)


def test_a_time_that_is_none_is_no_error() -> None:
    for created in (-5, 10**30, "yesterday", None, True):
        line = openai_line("k", {**completion("x"), "created": created}).encode()
        assert read_result(line).outcome.kind == "ok"


def test_only_what_adds_to_the_ledger_is_noted_for_the_stage(tmp_path: Path) -> None:
    home, date = Home(tmp_path, "world"), dt.date(2026, 11, 20)
    arrivals.note(home, date, "batch", [], NOW)
    assert not arrivals.arrivals_path(home, date).exists()
    arrivals.note(home, date, "batch", ["b", "a"], NOW)
    first = arrivals.arrivals_path(home, date).read_bytes()
    arrivals.note(home, date, "batch", [], LATER)
    assert arrivals.arrivals_path(home, date).read_bytes() == first
    arrivals.note(home, date, "replay", ["c"], LATER)
    assert arrivals.arrivals_path(home, date).read_bytes() != first
