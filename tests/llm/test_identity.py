"""Who a server is, and what of it goes into a request key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kar.errors import ServerRefused, ServerUnreachable
from kar.llm.identity import ServerIdentity, key_revision, server_identity
from kar.settings import LLMSettings
from kar.store import Home
from tests.llm import stand_in
from tests.llm.loopback import loopback


def settings_for(base_url: str, **more: object) -> LLMSettings:
    return LLMSettings.model_validate({"provider": "openai", "model": "tiny", "base_url": base_url, **more})


def test_a_server_says_its_root_revision_version_and_context() -> None:
    with loopback() as server:
        server.version = "0.32.0"
        server.card = {"id": "tiny", "owned_by": "vllm", "root": "/models/qwen3-8b", "revision": "abc", "max_model_len": 4096}
        assert server_identity(settings_for(server.base_url)) == ServerIdentity("tiny", "/models/qwen3-8b", "abc", "vllm 0.32.0", 4096)


def test_what_a_server_does_not_say_is_empty() -> None:
    with loopback() as server:
        assert server_identity(settings_for(server.base_url)) == ServerIdentity("tiny")
        assert server_identity(settings_for(server.base_url, model="another")) == ServerIdentity("another")


def test_of_several_servers_the_first_that_answers_is_asked() -> None:
    with loopback() as gone:
        pass
    with loopback() as there:
        there.card["root"] = "org/tiny"
        endpoints = [{"base_url": gone.base_url}, {"base_url": there.base_url}]
        assert server_identity(settings_for("", endpoints=endpoints)).root == "org/tiny"
    with pytest.raises(ServerUnreachable):
        server_identity(settings_for("", endpoints=endpoints))


def test_a_server_that_wants_another_key_is_named() -> None:
    with loopback(status_of_models=401) as server, pytest.raises(ServerRefused, match="401"):
        server_identity(settings_for(server.base_url))


@pytest.mark.parametrize(
    ("identity", "revision"),
    [
        (None, ""),
        (ServerIdentity("tiny"), ""),
        (ServerIdentity("tiny", root="tiny"), ""),
        (ServerIdentity("tiny", root="org/tiny-1b"), "org/tiny-1b"),
        (ServerIdentity("tiny", root="/mnt/a/tiny-1b"), "tiny-1b"),
        (ServerIdentity("tiny", root="/srv/models/tiny-1b/"), "tiny-1b"),
        (ServerIdentity("tiny", root="/srv/tiny"), ""),
        (ServerIdentity("tiny", revision="abc"), "abc"),
        (ServerIdentity("tiny", root="org/tiny-1b", revision="abc"), "org/tiny-1b@abc"),
    ],
)
def test_the_key_takes_what_the_server_reports_and_not_where_it_lies(
    tmp_path: Path, identity: ServerIdentity | None, revision: str
) -> None:
    home = Home(tmp_path, "s")
    assert key_revision(settings_for("http://x/v1"), home, identity) == revision
    assert key_revision(settings_for("http://x/v1", revision="mine"), home, identity) == "mine"


def test_version_and_context_are_not_part_of_the_key(tmp_path: Path) -> None:
    one = ServerIdentity("tiny", "org/t", "abc", "vllm 0.32.0", 4096)
    other = ServerIdentity("tiny", "org/t", "abc", "vllm 0.33.0", 8192)
    assert key_revision(settings_for("http://x/v1"), Home(tmp_path, "s"), one) == key_revision(
        settings_for("http://y/v1"), Home(tmp_path, "s"), other
    )


def test_the_local_model_is_named_by_its_digest(tmp_path: Path) -> None:
    home = Home(tmp_path, "s")
    stand_in.model(home)
    digest = json.loads((home.models / "stand-in" / "kar-model.json").read_text())["revision"]
    assert key_revision(LLMSettings(model="stand-in"), home, ServerIdentity("stand-in", root="/x/y", revision="z")) == digest
