"""A night without a server: kar writes the requests to a file, `vllm run-batch` answers it, kar takes the answers."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.night import DATE, Night
from tests.integration.vllm_server import command, environment

pytestmark = pytest.mark.vllm
COUNT = 12


def test_vllm_run_batch_takes_the_exported_file_as_it_is_and_its_answers_come_back(
    vllm_python: Path, model_folder: Path, tmp_path: Path
) -> None:
    night = Night(tmp_path / "night", "http://127.0.0.1:9/v1", "", items=COUNT, provider="batch")
    night.describe({3: "這部電影講述燈塔守護者的故事。" * 130})  # far more tokens than the plan takes it for, and than the model takes
    assert f"{COUNT} requests to send" in night.kar("batch", "export", "--out", str(tmp_path / "out"))
    sent, results = tmp_path / "out" / f"requests-{DATE}-0001.jsonl", tmp_path / "results.jsonl"
    lines = [json.loads(line) for line in sent.read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == list(night.bodies())

    runner = command(vllm_python, "vllm.entrypoints.openai.run_batch", model_folder, "-i", str(sent), "-o", str(results))
    done = subprocess.run(runner, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(results.read_text().splitlines()) == COUNT

    night.kar("batch", "import", str(results))
    assert len(night.paid()) == COUNT - 1
    assert {answer.model for answer in night.paid().values()} == {lines[0]["body"]["model"]}
    assert all(answer.completion_tokens > 0 and answer.prompt_tokens > 100 for answer in night.paid().values())
    night.ask()
    assert night.manifest().figures["calls"] == 0
    assert night.manifest().rejected["bad_request"] == 1
    assert sum(night.manifest().tables[name]["rows"] for name in ("knowledge", "refused")) == COUNT

    assert "1 requests to send" in night.kar("batch", "export", "--out", str(tmp_path / "again"))
    (again,) = (tmp_path / "again").glob("*.jsonl")
    assert json.loads(again.read_text())["custom_id"] not in night.paid()  # the one that was refused, and no other
