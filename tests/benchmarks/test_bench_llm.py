"""The benchmark's own parts work: the mock server speaks what kar's client takes, and the table is written whole."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import orjson
import pytest

from benchmarks import load, ours, rendering, replies, stages, systems, table
from benchmarks.child import measure
from benchmarks.mock_server import serving
from benchmarks.replies import MODEL
from benchmarks.table import Row
from kar.llm.ask import ask
from kar.llm.ledger import look_up
from kar.store import Home

ROOT = Path(__file__).parents[2]


def test_kar_s_client_takes_what_the_mock_server_speaks(tmp_path: Path) -> None:
    home = Home(tmp_path, "s")
    requests = [ours.request_of(MODEL, load.conversation(number)) for number in range(20)]
    with serving(20) as mock:
        asked = ask(requests, ours.settings_for(mock.base_url, MODEL, 8), home, ours.REVISION, ours.AS_OF, lambda *_: None)
        seen = mock.stats()
    answers = look_up(home.ledger, [r.key for r in requests])
    assert asked.answered == seen.calls == seen.answered == len(answers) == 20
    assert seen.most_in_flight == 8
    assert ours.judge(home.ledger, [r.key for r in requests], ours.quality_gate()) == 20
    assert {a.text for a in answers.values()} == {replies.ANSWER}
    assert {a.cached_tokens for a in answers.values()} == {replies.CACHED_TOKENS}
    assert asked.completion_tokens == 20 * replies.COMPLETION_TOKENS


def test_the_mock_server_s_metrics_are_live_and_named_as_vllm_names_them() -> None:
    with serving(0) as mock:
        origin = mock.base_url.removesuffix("/v1")
        for _ in range(3):
            request = urllib.request.Request(f"{mock.base_url}/chat/completions", b'{"messages": []}')
            with urllib.request.urlopen(request, timeout=10) as response:
                assert orjson.loads(response.read())["choices"][0]["finish_reason"] == "stop"
        with urllib.request.urlopen(f"{origin}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{origin}/no/such/place", timeout=10)
        assert mock.stats(reset=True).calls == 3
        assert mock.stats().calls == 0
    values = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("vllm:")}
    assert values["vllm:generation_tokens_total"] == 3 * replies.COMPLETION_TOKENS
    assert values["vllm:num_requests_running"] == 0
    assert {"vllm:num_requests_waiting", "vllm:kv_cache_usage_perc", "vllm:num_preemptions_total"} <= set(values)


def test_the_load_is_what_the_figures_say() -> None:
    bodies = [ours.request_of(MODEL, load.conversation(number)).body for number in range(200)]
    assert 2_400 < sum(len(body) for body in bodies) / 200 < 2_600
    assert len(set(bodies)) == 200
    assert {body.decode().count(" of 5 stars") for body in bodies} == {load.HISTORY_EVENTS}
    assert len({load.title(number) for number in range(load.ITEMS)}) == load.ITEMS


def test_kar_s_figure_is_of_all_answers_kept_and_accepted() -> None:
    with serving(0) as mock:
        did = ours.ask_chats(mock.base_url, MODEL, [load.conversation(number) for number in range(30)], 4)
        assert mock.stats().calls == did.accepted == 30
    assert min(did.seconds, did.cpu_s, did.judged_seconds, did.judged_cpu_s) > 0


def test_a_system_that_is_not_installed_is_named_and_one_that_is_does_the_work() -> None:
    with serving(0) as mock:
        task = {"base_url": mock.base_url, "count": 30, "in_flight": 4, "model": MODEL}
        done = measure("benchmarks.systems", {**task, "system": systems.BASELINE})
        assert mock.stats().calls == done.said["answers"] == 30
        assert done.peak_mb > 10
        # an interpreter without site-packages holds none of the peers
        bare = [sys.executable, "-S", "-m", "benchmarks.systems", json.dumps({**task, "system": "litellm"})]
        said = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(said)["missing"] == "litellm"


def test_a_plan_is_asked_from_its_file_and_its_results_are_written(tmp_path: Path) -> None:
    plan = tmp_path / "request.parquet"
    ours.write_plan(plan, MODEL, range(12))
    with serving(0) as mock:
        task = ours.Task(str(plan), str(tmp_path), mock.base_url, MODEL, 4, str(tmp_path / "results.parquet"))
        assert ours.run(task) == {"answered": 12, "from_ledger": 0, "written": 12}
        assert ours.run(task) == {"answered": 0, "from_ledger": 12, "written": 12}
        assert mock.stats().calls == 12


def test_rendering_makes_a_request_for_every_user() -> None:
    made = rendering.make(rendering.histories(users=50), ours.settings_for("http://127.0.0.1:9/v1", MODEL, 1))
    assert len({key for key, _ in made}) == 50
    assert all(body.count(b" of 5 stars") == rendering.EVENTS for _, body in made)


def test_the_table_is_printed_and_written_as_rows_of_five(tmp_path: Path) -> None:
    rows = [
        table.median_row("throughput", "kar", [30.0, 10.0, 20.0], "requests/s", [40.0, 50.0, 40.0]),
        Row("calls after one of 200 inputs changed", "kar", 1, "calls"),
    ]
    path = tmp_path / "new" / "bench.json"
    table.write(rows, path)
    assert json.loads(path.read_text()) == [
        {"name": "throughput", "system": "kar", "figure": 20.0, "unit": "requests/s", "ratio": 0.5},
        {"name": "calls after one of 200 inputs changed", "system": "kar", "figure": 1, "unit": "calls", "ratio": None},
    ]
    printed = table.text(rows).splitlines()
    assert len(printed) == 3
    assert printed[1].split() == ["throughput", "kar", "20", "requests/s", "0.500"]
    assert [p.name for p in path.parent.iterdir()] == ["bench.json"]


def test_the_stages_themselves_run_on_made_up_histories_and_their_answers_are_kept(tmp_path: Path) -> None:
    with serving(0, is_varied=True) as mock:
        made = {
            stage: stages.run(stages.Task(stage, str(tmp_path), 40, mock.base_url, 8)) for stage in ("histories", "prompts", "knowledge")
        }
        assert mock.stats().calls == 40
    assert made["histories"]["history"] == made["prompts"]["request"] == 40
    assert made["knowledge"]["knowledge"] + made["knowledge"]["refused"] == 40


def test_varied_answers_are_all_different() -> None:
    answers = [replies.varied_answer(number) for number in range(500)]
    assert len(set(answers)) == 500
    assert {len(answer.split()) for answer in answers} == {114}
