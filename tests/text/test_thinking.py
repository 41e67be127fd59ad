from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kar.settings import LLMSettings
from kar.text.thinking import Thinking, chat_template, switch_off, template_files, variable

# the places of these models' own templates that decide, in their words
QWEN = "{%- if add_generation_prompt %}{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{%- endif %}{%- endif %}"
GRANITE = "{%- if thinking %}{%- set system_message = 'think first' %}{%- endif %}{{ system_message }}"
DEEPSEEK = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% if thinking %}<think>{% else %}</think>{% endif %}"
CHATML = "{% for message in messages %}{% if message.thinking %}{{ message['thinking'] }}{% endif %}{{ 'no thinking aloud' }}{% endfor %}"
OWN = "{% set thinking = messages[0].content %}{{ thinking }}"
MARKED = "{% generation %}{{ messages }}{% endgeneration %}{% if enable_thinking %}x{% endif %}{% break %}"
FOREIGN = "{{ .System }}{% unheard_of %}{% if enable_thinking %}"


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (QWEN, "enable_thinking"),
        (GRANITE, "thinking"),
        (DEEPSEEK, "thinking"),
        (CHATML, None),
        (OWN, None),
        (MARKED, "enable_thinking"),
        (FOREIGN, "enable_thinking"),
        ("", None),
        ("{% unheard_of %} thinking", None),
    ],
)
def test_a_switch_is_a_variable_that_the_template_reads_and_does_not_make(template: str, name: str | None) -> None:
    assert variable(template) == name


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A model folder with these files."""

    def make(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / name.replace("__", ".")).write_text(text)
        return tmp_path

    return make


def test_the_template_s_own_file_goes_before_the_tokenizers_configuration(folder: Callable[..., Path]) -> None:
    made = folder(chat_template__jinja=QWEN, tokenizer_config__json=json.dumps({"chat_template": GRANITE}))
    assert chat_template(made) == QWEN
    assert [path.name for path in template_files(made)] == ["chat_template.jinja", "tokenizer_config.json"]


def test_of_several_named_templates_the_default_counts(folder: Callable[..., Path]) -> None:
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": GRANITE}]
    assert chat_template(folder(tokenizer_config__json=json.dumps({"chat_template": named}))) == GRANITE


@pytest.mark.parametrize("config", ["{broken", "[]", "{}", '{"chat_template": 3}', '{"chat_template": [{"name": "rag"}, 1]}'])
def test_a_folder_without_a_readable_template_has_none(folder: Callable[..., Path], config: str) -> None:
    assert chat_template(folder(tokenizer_config__json=config)) is None


def test_thinking_is_off_where_the_served_models_template_knows_how(folder: Callable[..., Path]) -> None:
    served = str(folder(chat_template__jinja=QWEN))
    assert switch_off(LLMSettings(tokenizer=served), None) == Thinking(
        "off by enable_thinking", {"chat_template_kwargs": {"enable_thinking": False}}
    )
    assert switch_off(LLMSettings(), Path(served)).body == {"chat_template_kwargs": {"enable_thinking": False}}


def test_nothing_is_sent_where_nothing_is_known(folder: Callable[..., Path], tmp_path: Path) -> None:
    for settings, model_folder in (
        (LLMSettings(provider="openai"), None),
        (LLMSettings(tokenizer=str(tmp_path / "nowhere")), None),
        (LLMSettings(), folder(chat_template__jinja=CHATML)),
    ):
        found = switch_off(settings, model_folder)
        assert found.body == {}
        assert found.said.startswith("left alone")
    assert switch_off(LLMSettings(thinking="leave"), folder(chat_template__jinja=QWEN)).body == {}


def test_the_settings_may_name_the_switch_themselves() -> None:
    assert switch_off(LLMSettings(thinking="off:thinking"), None).body == {"chat_template_kwargs": {"thinking": False}}
    assert switch_off(LLMSettings(thinking="off:reasoning_effort"), None).body == {"reasoning_effort": "none"}
