"""`kar batch` as its user meets it: the night's requests out, an answer for each back in, and the tables made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.in_process import kar, ledger_files
from tests.llm.batch.conftest import completion, vllm_line
from tests.llm.batch_server import batch_server
from tests.llm.loopback import answer_to
from tests.test_cli import DATE, shop

__all__ = ["shop"]
WORLD = ["-s", "world.toml"]


def answered(requests: Path) -> str:
    """What `vllm run-batch` would write for a file of requests."""
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    prompts = ["\n".join(m["content"] for m in line["body"]["messages"]) for line in lines]
    return "\n".join(vllm_line(line["custom_id"], completion(answer_to(p))) for line, p in zip(lines, prompts, strict=True)) + "\n"


def test_a_night_goes_out_as_a_file_and_its_answers_come_back(shop: Path) -> None:
    missing = kar(shop, "batch", "export", *WORLD, *DATE)
    assert missing.returncode == 1
    assert "prompts has not been made for 2026-11-19\n  do: run: kar run prompts --date 2026-11-19" in missing.stderr
    kar(shop, "plan", *WORLD, *DATE)
    priced = ["--set", "llm.usd_per_million_completion_tokens=1000"]
    done = kar(shop, "batch", "export", *WORLD, *DATE, "--out", "out", *priced)
    assert done.returncode == 0, done.stderr
    assert "32 requests to send" in done.stdout
    assert "USD (50% of the price per token in [llm])" in done.stdout
    (written,) = (shop / "out").iterdir()
    assert written.name == "requests-2026-11-19-0001.jsonl"
    (shop / "results.jsonl").write_text(answered(written))

    taken = kar(shop, "batch", "import", "results.jsonl", *WORLD, *DATE)
    assert taken.returncode == 0, taken.stderr
    assert "answers added           32" in taken.stdout
    assert ledger_files(shop) == (0, 1)
    assert "still to be answered    0" in taken.stdout
    again = kar(shop, "batch", "import", "results.jsonl", *WORLD, *DATE)
    assert "answers added           0" in again.stdout
    assert "in the ledger before    32" in again.stdout
    rest = kar(shop, "batch", "export", *WORLD, *DATE, "--out", "out")
    assert "0 requests to send, 32 in the ledger already" in rest.stdout
    assert list((shop / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("batch", "import", "nowhere.jsonl", *WORLD, *DATE), "nowhere.jsonl cannot be read: No such file"),
        (("batch", "import", "data", *WORLD, *DATE), "data cannot be read: Is a directory"),
        (("batch", "export", *WORLD, *DATE, "--out", "world.toml"), "world.toml cannot be written"),
    ],
)
def test_a_wrong_file_is_a_named_error(shop: Path, arguments: tuple[str, ...], says: str) -> None:
    kar(shop, "plan", *WORLD, *DATE)
    done = kar(shop, *arguments)
    assert done.returncode == 1, done.stdout
    assert says in done.stderr
    assert "\n  do: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_night_is_submitted_once_watched_and_fetched(shop: Path) -> None:
    kar(shop, "plan", *WORLD, *DATE)
    assert "no batch is open" in kar(shop, "batch", "status", *WORLD).stdout
    with batch_server("expired", answers=lambda place: place < 30) as server:
        at = [*WORLD, "--set", f"llm.base_url={server.base_url}", "--set", "llm.provider=batch"]
        sent = kar(shop, "batch", "submit", *at, *DATE)
        assert sent.returncode == 0, sent.stderr
        assert "is validating as batch_1: 32 requests of 2026-11-19" in sent.stdout
        assert "32 requests sent" in sent.stdout
        again = kar(shop, "batch", "submit", *at, *DATE)
        assert "0 requests sent, 32 in an open batch" in again.stdout
        assert "0 requests to send, 32 in an open batch" in kar(shop, "batch", "export", *at, *DATE).stdout
        seen = kar(shop, "batch", "status", *at)
        assert "2026-11-19" in seen.stdout
        assert "in_progress" in seen.stdout
        early = kar(shop, "batch", "fetch", *at)
        assert "finalizing, 0 of 32 answered; fetch it later" in early.stdout
        night = kar(shop, "run", "knowledge", *at, *DATE)
        assert "awaits_batch" in night.stderr, night.stderr
        done = kar(shop, "batch", "fetch", *at)
        assert done.returncode == 0, done.stderr
        assert "expired\n  answers added           30" in done.stdout
        assert "without an answer       2" in done.stdout
        assert ledger_files(shop) == (0, 1)
        assert "then: kar run all --settings world.toml --date 2026-11-19" in done.stdout
        made = kar(shop, "run", "knowledge", *at, *DATE)
        assert "'exhausted': 2" in made.stderr, made.stderr
        assert "no batch is open" in kar(shop, "batch", "fetch", *at).stdout
        rest = kar(shop, "batch", "submit", *at, *DATE)
        assert "2 requests sent, 30 in the ledger already" in rest.stdout
        name = next(word for word in rest.stdout.split() if word.startswith("2026-11-19-"))
        assert "2 requests go with the next batch" in kar(shop, "batch", "forget", name, *at).stdout


@pytest.mark.parametrize(
    ("llm", "says"),
    [
        ("base_url=https://api.openai.com/v1", "the environment variable KAR_LLM_API_KEY is empty"),
        ("base_url=http://127.0.0.1:9/v1", "POST /files at http://127.0.0.1:9/v1 failed"),
    ],
)
def test_a_submit_without_key_or_server_is_a_named_error(shop: Path, llm: str, says: str) -> None:
    kar(shop, "plan", *WORLD, *DATE)
    done = kar(shop, "batch", "submit", *WORLD, *DATE, "--set", f"llm.{llm}", "--set", "llm.max_attempts=1")
    assert done.returncode == 1
    assert says in done.stderr
    assert "\n  do: " in done.stderr
    assert "Traceback" not in done.stderr
    unknown = kar(shop, "batch", "forget", "nothing", *WORLD)
    assert unknown.returncode == 1
    assert "no open batch is called nothing" in unknown.stderr
