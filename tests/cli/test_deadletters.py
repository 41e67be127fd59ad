"""`kar deadletters` as its user meets it: counted, listed, shown whole, asked again, and then gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.in_process import kar, ledger_files
from tests.llm.loopback import Call, loopback
from tests.test_cli import DATE, shop

__all__ = ["shop"]
WORLD = ["-s", "world.toml"]
STEERING = "I'm sorry, but as an AI language model I cannot help with that. \x1b[31mRed\x1b[0m \u202eturned."


def refuse(call: Call) -> str:
    """Item prompts are refused with a text that would steer a terminal, unless the sampling was changed."""
    return "steering" if "<entry>" in call.prompt and not call.body["temperature"] else "ok"


def test_refused_answers_are_listed_shown_replayed_and_gone(shop: Path) -> None:
    early = kar(shop, "deadletters", "list", *WORLD)
    assert early.returncode == 1
    assert "knowledge has not been made for any date\n  do: run: kar run knowledge" in early.stderr
    with loopback(refuse, answers={"steering": (STEERING, "stop")}) as server:
        at = [*WORLD, "--set", f"llm.base_url={server.base_url}"]
        for stage in ("sources", "histories", "prompts", "knowledge"):
            assert kar(shop, "run", stage, *at, *DATE).returncode == 0
        listed = kar(shop, "deadletters", "list", *at, "--limit", "3")
        assert "20 dead letters of 2026-11-19" in listed.stdout
        assert next(line.split() for line in listed.stdout.splitlines() if line.startswith("item.facts  ")) == [
            *("item.facts", "refusal", "20", "0")
        ]
        assert "1 attempt, " in listed.stdout
        assert "missing: I'm sorry, but as an AI language model" in listed.stdout
        assert "… and 17 more; see --limit" in listed.stdout
        assert "0 dead letters" in kar(shop, "deadletters", "list", *at, "--reason", "echo").stdout
        assert "0 dead letters" in kar(shop, "deadletters", "list", *at, "--view", "user.preference").stdout

        shown = kar(shop, "deadletters", "show", "item.facts", "3", *at)
        assert shown.returncode == 0, shown.stderr
        assert "item.facts 3: refusal" in shown.stdout
        assert "[answer]" in shown.stdout
        assert "<U+001B>[31mRed" in shown.stdout
        assert "\x1b" not in shown.stdout
        assert "\u202e" not in shown.stdout
        key = next(line.split()[0] for line in shown.stdout.splitlines() if line.endswith("(planned)"))
        assert kar(shop, "deadletters", "show", key, *at).stdout == shown.stdout
        assert kar(shop, "deadletters", "show", key[:16], *at).stdout == shown.stdout

        calls = server.calls
        dry = kar(shop, "deadletters", "replay", "--reason", "refusal", "--temperature", "0.7", "--dry-run", *at)
        assert "would ask 20 requests, at most" in dry.stdout
        assert server.calls == calls
        done = kar(shop, "deadletters", "replay", "--reason", "refusal", "--temperature", "0.7", *at)
        assert done.returncode == 0, done.stderr
        assert "20 answered, 0 failed, 0 were in the ledger" in done.stdout
        assert server.calls == calls + 20
        assert ledger_files(shop) == (0, 2)  # the night's part, and the replay's
    assert kar(shop, "run", "knowledge", *WORLD, *DATE).returncode == 0
    assert "0 dead letters of 2026-11-19" in kar(shop, "deadletters", "list", *WORLD).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("replay", "--reason", "refusal"), 1, "would get the same answer from the ledger"),
        (("replay", "--reason", "truncated", "--set", "llm.provider=batch"), 1, "there is no server to ask now"),
        (("replay", "--reason", "ugly"), 2, "ugly: say one of"),
        (("replay",), 2, "Missing option"),
        (("show", "0" * 64), 1, "no dead letter of 2026-11-19 is about key 000"),
        (("show", "item.facts", "4711"), 1, "no dead letter of 2026-11-19 is about item.facts 4711"),
        (("list", "--date", "2026-11-18"), 1, "knowledge has not been made for 2026-11-18"),
        (("list", "--date", "today"), 2, "is no date"),
    ],
)
def test_what_cannot_be_done_is_named(made: Path, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = kar(made, "deadletters", *arguments, *WORLD)
    assert done.returncode == code, done.stdout + done.stderr
    assert says in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop whose night is made, without a dead letter."""
    from tests import world
    from tests.test_cli import ROOT, SETTINGS

    folder = tmp_path_factory.mktemp("shop")
    world.write(folder / "data")
    (folder / "world.toml").write_text(SETTINGS.format(folder=folder / "data", prompts=ROOT / "prompts"))
    with loopback() as server:
        for stage in ("sources", "histories", "prompts", "knowledge"):
            kar(folder, "run", stage, *WORLD, *DATE, "--set", f"llm.base_url={server.base_url}")
    return folder
