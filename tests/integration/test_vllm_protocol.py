"""What kar relies on at a real vLLM server: metrics, tokens, structured outputs, refusals."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from kar.llm import metrics
from kar.llm.key import body_bytes
from kar.settings import LLMSettings
from kar.text.asking import request_body
from kar.text.factors import load_factors
from kar.text.quality.likelihood import bodies, likelihood, token_logprobs
from kar.text.structured import read_answer
from kar.text.templates import load_template
from kar.text.tokens import token_counter
from tests.integration.night import ROOT
from tests.integration.vllm_server import MODEL, VllmServer, until

pytestmark = pytest.mark.vllm
FACTORS = [factor.name for factor in load_factors(ROOT / "prompts", "movies").factors]


def schema() -> dict[str, object]:
    """One short string per factor of the shipped movie prompts."""
    text = {"type": "string", "maxLength": 40}
    return {"type": "object", "properties": dict.fromkeys(FACTORS, text), "required": FACTORS, "additionalProperties": False}


def test_the_server_names_its_model_its_folder_its_context_and_its_version(server: VllmServer, model_folder: Path) -> None:
    (card,) = json.loads(server.get("/v1/models")[1])["data"]
    assert card["id"] == MODEL
    assert Path(card["root"]) == model_folder
    assert card["max_model_len"] == 2048
    assert json.loads(server.get("/version")[1])["version"].count(".") == 2


def test_under_load_the_metrics_that_steer_the_gate_are_read(server: VllmServer) -> None:
    askers = [threading.Thread(target=server.chat, args=(f"Count to {n}.",), kwargs={"max_tokens": 48}) for n in range(8)]
    for asker in askers:
        asker.start()
    assert until(lambda: server.metric("vllm:num_requests_running") >= 2, 60.0, 0.02)
    reading = metrics.read(server.get("/metrics")[1].encode())
    for asker in askers:
        asker.join()
    assert reading is not None
    assert 2 <= reading.running + reading.waiting <= 8
    assert 0.0 < reading.kv_share < 1.0
    assert reading.preemptions == 0
    idle = metrics.read(server.get("/metrics")[1].encode())
    assert idle is not None
    assert (idle.running, idle.waiting) == (0, 0)
    assert idle.prefix_queries == server.metric("vllm:prefix_cache_queries_total") > 0
    assert idle.prefix_hits == server.metric("vllm:prefix_cache_hits_total") > 0


def test_every_figure_of_the_gate_has_its_newest_name_at_this_server(server: VllmServer) -> None:
    """If this fails, vLLM has renamed a metric: put the new name first in kar.llm.metrics and keep the old one."""
    page = server.get("/metrics")[1]
    for figure, names in metrics.ALIASES.items():
        assert f"\n{names[0]}{{" in page, figure


def test_our_token_counts_agree_with_the_server_s(server: VllmServer, model_folder: Path) -> None:
    counter = token_counter(LLMSettings(tokenizer=str(model_folder)), None)
    for text in ("Toy Story (1995)", "Ein Film über Zürich, 2 € pro Stück", "電影 " * 30):
        messages = [{"role": "system", "content": "You know movies well."}, {"role": "user", "content": text}]
        status, counted = server.post("/tokenize", {"messages": messages})
        assert status == 200
        assert abs(counter.messages([m["content"] for m in messages]) - counted["count"]) <= 3


def test_a_structured_answer_is_json_with_a_text_for_every_factor(server: VllmServer) -> None:
    answer = server.chat("Describe the film Heat along these points.", max_tokens=400, structured_outputs={"json": schema()})
    assert answer["choices"][0]["finish_reason"] == "stop"
    found = json.loads(answer["choices"][0]["message"]["content"])
    assert list(found) == FACTORS
    assert all(isinstance(text, str) for text in found.values())


def test_the_request_that_the_plan_writes_is_answered_in_factors_in_their_order(server: VllmServer) -> None:
    """The body's keys are sorted, so the schema goes as text: a server writes the keys in the order in which it reads them."""
    template = load_template(ROOT / "prompts", "movies", "item.facts", "factors")
    settings = LLMSettings(provider="openai", model=MODEL)
    messages = template.render(title="Heat (1995)", text="Heat (1995). genre: action, crime, thriller")
    status, answer = server.post("/v1/chat/completions", json.loads(body_bytes(request_body(template, messages, settings, {}))))
    assert status == 200
    text, finish = answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]
    assert finish == "length" or read_answer(text, template.keys).kind == "factors"
    written = re.findall(r'"([a-z_]+)":', text)
    assert len(written) > 1
    assert written == list(template.keys)[: len(written)]


def test_guided_json_is_ignored_without_a_word(server: VllmServer) -> None:
    """A trap: the field's old name is accepted and does nothing. If this test fails, vLLM has mended it."""
    plain = server.chat("Say hello.", max_tokens=12)
    guided = server.chat("Say hello.", max_tokens=12, guided_json=schema())
    assert guided["choices"][0]["message"]["content"] == plain["choices"][0]["message"]["content"]
    assert not guided["choices"][0]["message"]["content"].startswith("{")


def test_a_prompt_seen_before_is_counted_as_cached(server: VllmServer) -> None:
    prompt = "Write about the film Casino. " + "The catalogue says nothing else. " * 20
    server.chat(prompt)
    details = server.chat(prompt)["usage"]["prompt_tokens_details"]
    assert details["cached_tokens"] > 100


def test_an_answer_is_likelier_with_its_source_than_without(server: VllmServer) -> None:
    """What the optional judge of the quality gate rests on."""
    frame = "Describe the film of this entry in one sentence. Entry:"
    source = "A lighthouse keeper on a Norwegian island finds a letter that his brother wrote before the war."
    answer = "A lighthouse keeper on a Norwegian island finds a letter of his brother."
    asked, blank = [{"role": "user", "content": f"{frame} {source}"}], [{"role": "user", "content": frame}]
    replies = [server.post("/v1/chat/completions", body) for body in bodies(MODEL, asked, blank, answer)]
    assert [status for status, _ in replies] == [200, 200, 200]
    with_source, without_source, frame_only = (token_logprobs(reply["prompt_logprobs"]) for _, reply in replies)
    found = likelihood(with_source, without_source, len(frame_only))
    assert found is not None
    assert 10 <= found.tokens <= 25
    assert found.gain > 1.0


def test_a_prompt_beyond_the_context_is_refused_with_400(server: VllmServer) -> None:
    before = server.calls()
    status, answer = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 3000}], "max_tokens": 5})
    assert status == 400
    assert "2048" in answer["error"]["message"]
    assert server.calls() == before
