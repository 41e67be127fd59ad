"""A key is planted where keys come from, whatever can quote it back does, and then every byte that kar left or said is searched for it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from pyarrow import fs

from tests import world
from tests.cli.in_process import kar
from tests.forget.homes import holding
from tests.lineage.spec import faults
from tests.llm.loopback import Call, answer_to, loopback
from tests.release import store as stores
from tests.test_cli import SETTINGS

ROOT = Path(__file__).parents[1]
DAY = world.LAST_DAY.isoformat()
KEY = "sk-proj-Zq7vYp0w-planted-3Kd91xTbWm"
WRONG = "sk-proj-Lh2mNc8r-planted-7Uj45sAeQf"
PARTS = (KEY, KEY[:12], KEY[-12:], WRONG, WRONG[:12], WRONG[-12:])
"""Of a key that is cut in two, either half may be looked for: `planted` stands in both names."""
AWS = {"AWS_ACCESS_KEY_ID": "AKIAZQ7VYP0W3KD91XTB", "AWS_SECRET_ACCESS_KEY": "wJalr7Xpl4nt3dFEMIK7MDENGbPxRfiCYzQ8vT2k"}
SMALL = """
[examples]
valid_share = 0.2
test_share = 0.3
[adaptor]
backbones = ["fibinet"]
epochs = 1
embedding_dim = 8
expert_hidden = 8
mlp = [16]
batch_size = 32
resamples = 100
item_fields = ["genre"]
threads = 1
"""


def behave(call: Call) -> str:
    """Quotes the key in a refusal where it is cut after 200 characters, in an answer, in a fault that is tried again, in another refusal."""
    said = {
        1: f"400:{'x' * 185}{KEY} is not allowed to say this",
        2: "quoted",
        3: f"500:upstream said 401 to Bearer {KEY}",
        4: f'422:{{"error": "{KEY}"}}',
    }
    return said.get(call.number, "ok")


@dataclass
class Shop:
    folder: Path
    said: list[str] = field(default_factory=list)

    def kar(self, *arguments: str, url: str = "") -> subprocess.CompletedProcess[str]:
        """A command, with what it says kept. The address goes by --set: nothing else changes between two nights."""
        address = ("--set", f"llm.base_url={url}") if url else ()
        done = kar(self.folder, *arguments, "--settings", "world.toml", *address)
        self.said += [done.stdout, done.stderr]
        return done

    def nothing_holds(self, *needles: str) -> None:
        found = {needle: names for needle, names in holding(self.folder / "home", *needles).items() if names}
        assert found == {}
        for needle in needles:
            for text in [*self.said, self.lineage]:
                assert needle not in text, text[max(text.find(needle) - 200, 0) : text.find(needle) + 80]

    @property
    def lineage(self) -> str:
        path = self.folder / "events.jsonl"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    world.write(tmp_path / "data")
    (tmp_path / "world.toml").write_text(SETTINGS.format(folder=tmp_path / "data", prompts=ROOT / "prompts") + SMALL)
    config = {"transport": {"type": "file", "log_file_path": str(tmp_path / "events.jsonl"), "append": True}}
    (tmp_path / "openlineage.yml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KAR_LINEAGE", "1")
    monkeypatch.setenv("KAR_LLM_API_KEY", KEY)
    return Shop(tmp_path)


@pytest.mark.slow
def test_a_key_is_in_nothing_that_a_night_leaves_or_says(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"quoted": (answer_to("a film") + f" Its key is {KEY}.", "stop")}
    with loopback(behave, answers=answers, key=KEY) as server:
        night = shop.kar("run", "all", "--date", DAY, url=server.base_url)
        assert night.returncode == 0, night.stderr
        assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
        assert server.calls > 30
        for command in (
            ["plan", "--date", DAY],
            ["status"],
            ["metrics"],
            ["deadletters", "list"],
            ["show", "item", "3"],
            ["ledger", "stats"],
        ):
            done = shop.kar(*command, url=server.base_url)
            assert done.returncode == 0, done.stderr
        monkeypatch.setenv("KAR_LLM_API_KEY", WRONG)
        night = ["--date", "2026-11-20", "--set", "llm.model=other"]
        assert "because='the server at" in shop.kar("plan", *night, url=server.base_url).stderr, "it is planned for the model last seen"
        for command in (["run", "knowledge"], ["ask", "--shard", "0/2", "--json"]):
            done = shop.kar(*command, *night, url=server.base_url)
            assert done.returncode == 1
            assert "refuses: 401 Incorrect API key provided: ***." in done.stderr
    kept = holding(shop.folder / "home", '422 {"error": "***"}', "Its key is ***.", "<html")
    assert all(any("ledger" in name for name in names) for needle, names in kept.items() if "***" in needle), "the quotes did arrive"
    assert any("report" in name for name in kept["<html"])
    events = {(event["job"]["name"], event["eventType"]): event for event in map(json.loads, shop.lineage.splitlines())}
    assert [(at, faults(event)) for at, event in events.items() if faults(event)] == []
    features = events["features", "COMPLETE"]
    assert features["outputs"][-1]["name"] == "release"
    assert any(one["name"].startswith("file:adaptor/") for one in features["inputs"]), "the checkpoint that the release was made with"
    assert {test["name"]: test["status"] for test in features["run"]["facets"]["test"]["tests"]}["rows user"] == "skip", "it is the first"
    shop.nothing_holds(*PARTS)

    with stores.serving() as store:
        for name, value in {
            **stores.ENVIRONMENT,
            **AWS,
            "AWS_ENDPOINT_URL": store.endpoint,
            "KAR_CACHE": str(shop.folder / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        bucket = fs.S3FileSystem(endpoint_override=store.endpoint, allow_bucket_creation=True)
        bucket.create_dir("shop")
        done = shop.kar("run", "features", "--date", DAY, "--set", "features.published=s3://shop/night")
        assert done.returncode == 0, done.stderr
        shop.kar("status", "--set", "features.published=s3://shop/night")
        assert "is served" in shop.said[-2] or "current" in shop.said[-2].lower()
        store.require_credentials(on=True)
        refused = shop.kar("run", "features", "--date", DAY, "--set", "features.published=s3://shop/other")
        store.require_credentials(on=False)
        assert refused.returncode == 1
        assert "refuses our credentials" in refused.stderr
        objects = [
            bucket.open_input_stream(file.path).read()
            for file in bucket.get_file_info(fs.FileSelector("shop", recursive=True))
            if file.is_file
        ]
    assert len(objects) > 5
    assert [found for found in objects if any(value.encode() in found for value in AWS.values())] == []
    shop.nothing_holds(*PARTS, *AWS.values())


@pytest.mark.parametrize(
    "override",
    [
        f"llm.base_url=http://kar:{KEY}@127.0.0.1:9/v1",
        f"llm.base_url=http://{KEY}@127.0.0.1:9/v1",
        f"llm.base_url=http://127.0.0.1:9/v1?api_key={KEY}",
        f"llm.endpoints=[{{base_url = 'http://kar:{KEY}@127.0.0.1:9/v1'}}]",
        f"llm.api_key_env={KEY}",
    ],
)
def test_a_key_in_the_settings_is_refused_and_not_repeated(shop: Shop, override: str) -> None:
    done = shop.kar("plan", "--date", DAY, "--set", override)
    assert done.returncode == 1
    assert "llm." in done.stderr
    assert not (shop.folder / "home").exists()
    assert [text for text in shop.said if any(part in text for part in PARTS)] == []
