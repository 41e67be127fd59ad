"""Whether the served model can be asked to answer at once, and the words of the request body that ask it to.

Reasoning before the answer costs many times the answer's tokens and may leave none for it. Models that can do without
say so in their chat template, by a variable of one of two names; a server hands `chat_template_kwargs` to the template
(vLLM, SGLang). Nothing is guessed from a model's name: without the template at hand, or a setting, the body stays as it is.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kar.settings.schema import LLMSettings

VARIABLES = ("enable_thinking", "thinking")  # Qwen3, SmolLM3, GLM …; Granite, DeepSeek-V3.1 …
_JINJA_FILE, _CONFIG_FILE = "chat_template.jinja", "tokenizer_config.json"
_ENVIRONMENT = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do"])
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own tag; it marks what the model wrote


@dataclass(frozen=True)
class Thinking:
    """What is done about reasoning.

    Args:
        said: in words, for the plan: `off by enable_thinking`, or why it is left alone.
        body: keys of the request body that switch it off; empty: nothing is sent.
    """

    said: str
    body: dict[str, Any] = field(default_factory=dict)


def switch_off(settings: LLMSettings, model_folder: Path | None) -> Thinking:
    """How to switch reasoning off for the served model.

    Args:
        settings: `thinking`: auto looks into the chat template of `tokenizer`'s folder, off:NAME sends that, leave sends nothing.
        model_folder: the local model's folder, if the model is local.
    """
    if settings.thinking == "leave":
        return Thinking("left alone: llm.thinking says so")
    if settings.thinking != "auto":
        return _off(settings.thinking.removeprefix("off:"))
    folder = Path(settings.tokenizer).expanduser() if settings.tokenizer else model_folder
    if folder is None:
        return Thinking("left alone: the model's chat template is not at hand (llm.tokenizer names no folder)")
    template = chat_template(folder)
    if template is None:
        return Thinking(f"left alone: {folder.name} holds no chat template")
    found = variable(template)
    return _off(found) if found else Thinking("left alone: the model's chat template knows no switch")


def _off(name: str) -> Thinking:
    body = {"reasoning_effort": "none"} if name == "reasoning_effort" else {"chat_template_kwargs": {name: False}}
    return Thinking(f"off by {name}", body)


def chat_template(folder: Path) -> str | None:
    """A model folder's chat template, as transformers finds it: its own file, else the tokenizer's configuration.

    Of several named ones the default. None if there is none, or none that can be read.
    """
    own = folder / _JINJA_FILE
    try:
        if own.is_file():
            return own.read_text(encoding="utf-8")
        config = json.loads((folder / _CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = config.get("chat_template") if isinstance(config, dict) else None
    if isinstance(found, list):
        named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def template_files(folder: Path) -> list[Path]:
    """The files that `chat_template` reads, as far as they are there."""
    return [path for path in (folder / _JINJA_FILE, folder / _CONFIG_FILE) if path.is_file()]


def variable(template: str) -> str | None:
    """The name of the switch that a chat template asks for, None if it asks for none.

    A variable is meant that the template reads and does not make itself: `thinking` is also a word that models write,
    and a field of messages.
    """
    try:
        asked = meta.find_undeclared_variables(_ENVIRONMENT.parse(_GENERATION.sub("", template)))
    except (jinja2.TemplateSyntaxError, RecursionError):  # a dialect of another renderer; the long name is no common word
        return VARIABLES[0] if re.search(rf"\b{VARIABLES[0]}\b", template) else None
    return next((name for name in VARIABLES if name in asked), None)
