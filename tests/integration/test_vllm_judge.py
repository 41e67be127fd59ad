"""The optional judge against a real vLLM server: what a source explains of its own text, and a night that is judged once."""

from __future__ import annotations

import datetime as dt
import statistics
from pathlib import Path

import pytest

from kar.llm.ask import Asked
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Ledger
from kar.llm.likelihood import scoring
from kar.llm.stream import Request
from kar.settings import KnowledgeSettings, LLMSettings
from kar.store import Home
from kar.text.quality.likelihood import bodies, likelihood, token_logprobs
from kar.text.templates import load_template
from tests.integration.night import ROOT, Night
from tests.integration.vllm_server import MODEL, VllmServer

pytestmark = pytest.mark.vllm
NOW = dt.datetime(2026, 11, 20, 1, tzinfo=dt.UTC)
# who it is about · where · what happens; the text about it says the same in other words
_WHO = [
    "lighthouse keeper",
    "retired boxer",
    "young violinist",
    "taxi driver",
    "village priest",
    "cook",
    "smuggler",
    "nurse",
    "spy",
    "farmer",
]
_WHERE = ["on a Norwegian island", "in Chicago", "in Vienna", "in Lagos", "in the Andes", "in Lyon", "at the Baltic coast", "in Seoul"]
_WHAT = [
    "finds a letter of a dead brother",
    "hides a child from the police",
    "loses a bet and all the savings",
    "falls in love with a rival",
]
SOURCES = [
    (f"A {_WHO[n % 10]} {_WHERE[n % 8]} {_WHAT[n % 4]}.", f"This film follows a {_WHO[n % 10]} {_WHERE[n % 8]} who {_WHAT[n % 4]}.")
    for n in range(20)
]


def test_a_text_gains_more_from_its_own_source_than_from_another_s(server: VllmServer, tmp_path: Path) -> None:
    """Prints the gains; the setting's default lies below nearly all true ones and above most of the swapped."""
    template, home = load_template(ROOT / "prompts", "movies", "item.facts"), Home.of("world", tmp_path)
    blank = template.render(title="", text="")
    settings = LLMSettings(provider="openai", model=MODEL, base_url=server.base_url, revision="r1")
    gains: dict[str, list[float]] = {"own": [], "swapped": []}
    with Ledger.open(home.ledger) as ledger, scoring(settings, home, "r1", NOW, ledger, token_logprobs, Asked()) as made:
        for number, (source, _) in enumerate(SOURCES):
            asked = template.render(title=f"Entry {number}", text=source)
            for name, text in (("own", SOURCES[number][1]), ("swapped", SOURCES[(number + 7) % len(SOURCES)][1])):
                raw = [body_bytes(body) for body in bodies(MODEL, asked, blank, text)]
                trio = [Request(request_key(body, "r1"), body, 400, 1, "judge") for body in raw]
                scores = made.score(trio)
                given, alone, frame = (scores[request.key] for request in trio)
                found = likelihood(given, alone, len(frame))
                assert found is not None
                gains[name].append(found.gain)
        assert made.paid().failed == 0
    print("\n  own  swapped")
    for own, swapped in zip(gains["own"], gains["swapped"], strict=True):
        print(f"{own:5.2f}  {swapped:7.2f}")
    for name, found_gains in gains.items():
        print(f"{name}: median {statistics.median(found_gains):.2f}, {min(found_gains):.2f} to {max(found_gains):.2f}")
    assert all(own > swapped for own, swapped in zip(gains["own"], gains["swapped"], strict=True))
    assert min(gains["own"]) > KnowledgeSettings().min_likelihood_gain


def test_a_judged_night_is_scored_once_and_a_second_run_asks_nothing(server: VllmServer, model_folder: Path, tmp_path: Path) -> None:
    night = Night(tmp_path / "night", server.base_url, model_folder, items=20, answer_tokens=40)
    night.settings_path.write_text(night.settings_path.read_text() + "judge = true\n")
    before = server.answered()
    night.ask()
    figures = night.manifest().figures
    (view,) = figures["likelihood"]["views"].values()
    assert view["accepted"] == view["scored"] > 0
    assert server.answered() - before == 20 + 1 + 2 * view["scored"] == figures["calls"]
    print(f"\n{view}")
    first = night.bytes_of_tables()
    night.forget_the_tables()
    night.ask()
    assert server.answered() - before == figures["calls"]
    assert night.bytes_of_tables() == first
    assert night.manifest().figures["calls"] == 0
