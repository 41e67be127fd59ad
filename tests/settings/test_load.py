"""kar/settings: strict reading, and errors that say where and what."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from kar.errors import SettingsError
from kar.settings import load, parse

MINIMAL = """
[scenario]
name = "tiny"
domain = "movies"
[sources.interactions]
path = "e.csv"
format = "csv"
columns = {user_id = "u", item_id = "i", event_at = "t", rating = "r"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(MINIMAL)
    return path


def test_a_minimal_file_gets_the_defaults(file: Path) -> None:
    settings = load(file)
    assert settings.adaptor.arms == ["base", "text", "knowledge", "permuted"]
    assert settings.histories.cap == 30


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("llm.token_buget=5", r"unknown key llm\.token_buget \(did you mean token_budget\?\)"),
        ("lmm.provider=local", r"unknown key lmm \(did you mean llm\?\)"),
        ("llm.concurrency=0", r"llm\.concurrency: .*greater than or equal to 1"),
        ("llm.provider=vllm", r"llm\.provider: .*'local', 'openai' or 'batch'"),
        ("examples.label=rating", "label rule is 'rating'"),
        ("examples.label=stars > 3", "label rule is 'stars > 3'"),
        ("histories.cap=many", r"histories\.cap: .*got 'many'"),
        ("scenario.name=../up", r"scenario\.name"),
        ("adaptor.backbones=['din']", "published_backbone 'fibinet' is not among"),
        ("llm", "is not section.key=value"),
        ("scenario.name.deep=1", "name is not a section"),
    ],
)
def test_a_wrong_setting_is_named_with_its_place(file: Path, override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(file, [override])


def test_a_missing_file_a_folder_and_broken_toml_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no settings file"):
        load(tmp_path / "no.toml")
    with pytest.raises(SettingsError, match="is a folder"):
        load(tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text("[scenario\n")
    with pytest.raises(SettingsError, match="not valid TOML"):
        load(broken)


def test_an_override_reads_toml_values_and_plain_text(file: Path) -> None:
    settings = load(file, ["llm.token_budget=1000", "llm.model=some/model", "adaptor.seeds=[1, 2]"])
    assert (settings.llm.token_budget, settings.llm.model, settings.adaptor.seeds) == (1000, "some/model", [1, 2])


def test_an_import_of_a_view_keeps_the_dot_of_its_name(file: Path) -> None:
    settings = load(file, ["knowledge.imports.item.facts=facts.jsonl"])
    assert settings.knowledge.imports == {"item.facts": "facts.jsonl"}


def test_a_variant_of_a_view_is_set_key_by_key(file: Path) -> None:
    keys = [("template", '"item.facts.b"'), ("share", "0.25"), ("salt", '"x"')]
    variant = load(file, [f"prompts.variants.item.facts.{key}={value}" for key, value in keys]).prompts.variants["item.facts"]
    assert (variant.template, variant.share, variant.salt) == ("item.facts.b", 0.25, "x")


@pytest.mark.parametrize(
    ("view", "template", "share", "message"),
    [
        ("item.tags", "item.tags.b", "0.5", r"variants names view 'item\.tags', which is not among views"),
        ("item.facts", "user.preference.b", "0.5", r"variants\.item\.facts: the template's file is item\.facts\.<name>"),
        ("item.facts", "item.facts.b", "1.5", r"prompts\.variants\.item\.facts\.share: Input should be less than or equal to 1"),
        ("item.facts", "item.facts", "0.5", r"prompts\.variants\.item\.facts\.template: String should match pattern"),
        ("item.facts", "../b", "0.5", r"String should match pattern"),
    ],
)
def test_a_variant_that_cannot_be_is_named(file: Path, view: str, template: str, share: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(file, [f'prompts.variants.{view}.template="{template}"', f"prompts.variants.{view}.share={share}"])


@pytest.mark.parametrize("override", ["prompts.max_drift=0", "prompts.max_drift=1.1", "prompts.order=longest", "prompts.value_bands=0"])
def test_a_setting_of_the_plan_that_cannot_be_is_named(file: Path, override: str) -> None:
    with pytest.raises(SettingsError, match=override.split("=")[0].replace(".", r"\.")):
        load(file, [override])


def test_what_cannot_change_the_output_is_not_in_the_recipe() -> None:
    import tomllib

    data = tomllib.loads(MINIMAL)
    near = parse({**data, "llm": {"concurrency": 4, "base_url": "http://127.0.0.1:1/v1"}})
    far = parse({**data, "llm": {"concurrency": 64, "base_url": "http://127.0.0.1:2/v1"}})
    other = parse({**data, "llm": {"model": "another"}})
    assert near.llm.recipe() == far.llm.recipe()
    assert near.llm.recipe() != other.llm.recipe()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("rating > 3", ("rating", ">", 3.0)), ("rating>=4.5", ("rating", ">=", 4.5)), ("click", ("click", "==", 1.0))],
)
def test_the_label_rule_is_read(rule: str, expected: tuple[str, str, float], file: Path) -> None:
    assert load(file, [f"examples.label={rule}"]).examples.label_rule() == expected


def test_training_meets_older_knowledge_in_time_mode_only(file: Path) -> None:
    day = dt.date(2026, 11, 19)
    assert load(file, ["examples.window_days=7"]).snapshot_date(day) == dt.date(2026, 11, 12)
    assert load(file, ["histories.mode=per_user"]).snapshot_date(day) == day


def test_a_batch_costs_its_share_of_the_model_s_prices() -> None:
    from kar.settings import LLMSettings, Price

    prices = {"gpt*": Price(prompt=4.0, cached=1.0, completion=8.0)}
    assert LLMSettings(provider="openai", model="gpt-x", prices=prices).price() == prices["gpt*"]
    assert LLMSettings(provider="batch", model="gpt-x", prices=prices).price() == Price(prompt=2.0, cached=0.5, completion=4.0)
    single = LLMSettings(provider="batch", model="other", prices=prices, usd_per_million_prompt_tokens=3.0, batch_price_share=1.0)
    assert single.price() == Price(prompt=3.0)
