"""What a reply means, by status and shape."""

from __future__ import annotations

import datetime as dt

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.llm.outcome import outcome_of, retry_after_s
from kar.llm.transport import Reply

NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
JSON = {"content-type": "application/json; charset=utf-8"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((s, "back_pressure") for s in (429, 503)),
        *((s, "retry") for s in (204, 408, 500, 502, 504, 529)),
        *((s, "permanent") for s in (301, 400, 404, 405, 413, 422)),
        *((s, "fatal") for s in (401, 403)),
    ],
)
def test_a_status_has_one_meaning_whatever_the_words_say(status: int, kind: str) -> None:
    for words in (b"rate limit exceeded, retry", b"invalid api key", b""):
        assert outcome_of(Reply(status, {}, words), NOW).kind == kind


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("99999", 300.0),
        ("nan", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Fri, 20 Nov 2026 01:00:20 GMT", 20.0),
        ("Fri, 20 Nov 2026 00:59:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_bounded(header: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": header}, NOW) == seconds


@pytest.mark.parametrize(
    "data",
    [
        [],
        {},
        {"choices": []},
        {"choices": {}},
        {"choices": ["x"]},
        {"choices": [{}]},
        {"choices": [{"message": "hi"}]},
        {"choices": [{"message": {"content": 3}}]},
    ],
)
def test_an_answer_of_another_shape_may_be_tried_again(data: object) -> None:
    assert outcome_of(Reply(200, JSON, orjson.dumps(data)), NOW).kind == "retry"


def test_no_content_is_an_answer_that_the_quality_gate_judges() -> None:
    data = {"choices": [{"message": {"content": None, "reasoning": "hm"}, "finish_reason": "length"}], "usage": {"prompt_tokens": True}}
    parsed = outcome_of(Reply(200, JSON, orjson.dumps(data)), NOW).parsed
    assert parsed is not None
    assert (parsed.text, parsed.finish_reason, parsed.prompt_tokens) == ("", "length", -1)


@given(st.integers(200, 599), st.binary(max_size=300), st.sampled_from(["application/json", "text/html", ""]))
def test_no_reply_whatsoever_raises(status: int, content: bytes, content_type: str) -> None:
    assert outcome_of(Reply(status, {"content-type": content_type}, content), NOW).kind
