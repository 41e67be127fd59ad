"""`kar factors suggest`: KAR's elicitation step, against the configured model."""

from __future__ import annotations

from kar.settings import Settings
from kar.store import Home


def suggest_factors(settings: Settings, home: Home, domain: str, noun: str) -> str:
    """Ask the model which factors decide interest in this kind of item; return a draft factors.toml for a person to prune.

    Raises:
        LLMError: the server is not there or refuses.
    """
    from kar.llm.ask import ask_once
    from kar.llm.local import serving
    from kar.text.factors import suggest

    if settings.llm.provider == "local":
        with serving(home, settings.llm) as base_url:
            return suggest(domain, noun, lambda messages: ask_once(messages, settings.llm, base_url))
    return suggest(domain, noun, lambda messages: ask_once(messages, settings.llm, settings.llm.base_url))
