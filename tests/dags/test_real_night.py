"""kar_nightly with the real kar against a loopback server: `airflow dags test` on SQLite makes a release, and a second time nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import kar.release
from tests import world
from tests.llm.loopback import loopback
from tests.test_cli import ROOT, shop

__all__ = ["shop"]
pytestmark = pytest.mark.slow  # two nights on Airflow, a training: a minute or two

KEY = "sk-planted-7f3a"
_SMALL = [
    *("histories.cap=6", "examples.valid_share=0.2", "examples.test_share=0.3", 'adaptor.backbones=["fibinet"]', "adaptor.epochs=2"),
    *("adaptor.embedding_dim=8", "adaptor.expert_hidden=8", "adaptor.mlp=[16]", "adaptor.batch_size=32", "adaptor.resamples=100"),
    *('adaptor.item_fields=["genre"]', "adaptor.threads=1"),
]
AIRFLOW = [sys.executable, "-m", "airflow"]


def _environment(folder: Path, base_url: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("KAR_", "AIRFLOW"))}
    return {
        **clean,
        "AIRFLOW_HOME": str(folder / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "PYTHONPATH": str(ROOT),
        "KAR_PYTHON": sys.executable,
        "KAR_HOME": str(folder / "home"),
        "KAR_SETTINGS": str(folder / "world.toml"),
        "KAR_SET": "\n".join([f"llm.base_url={base_url}", *_SMALL]),
        "KAR_SHARD_REQUESTS": "25",
        "KAR_RETRY_DELAY": "0",
        "KAR_LLM_SERVER": "standing",
        "KAR_LLM_URL": base_url,
        "KAR_LLM_API_KEY": KEY,
    }


def _holding(folder: Path, text: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_night_on_airflow_makes_a_release_once_and_the_key_is_nowhere(shop: Path) -> None:
    date = world.LAST_DAY.isoformat()
    world.write(shop / "data", users=40)  # enough for a training
    with loopback() as server:
        environment = _environment(shop, server.base_url)
        subprocess.run([*AIRFLOW, "db", "migrate"], env=environment, check=True, capture_output=True, timeout=300)
        (shop / "out").mkdir()
        calls = []
        for night in ("first", "second"):
            with (shop / "out" / night).open("w") as out:
                command = [*AIRFLOW, "dags", "test", "kar_nightly", date]
                done = subprocess.run(command, env=environment, cwd=shop, stdout=out, stderr=subprocess.STDOUT, timeout=600)
            assert done.returncode == 0, (shop / "out" / night).read_text()[-4000:]
            calls.append(server.calls)
    assert calls[0] == calls[1] > 0
    release = kar.release.open(shop / "home" / "world" / "published", verify=True)
    assert release.id.startswith(date)
    log = (shop / "out" / "first").read_text()
    assert "ask --date" in log
    assert "2/3" in log
    assert _holding(shop, KEY) == []
