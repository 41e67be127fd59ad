"""Read a settings file and name what is wrong in it."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from kar.errors import SettingsError
from kar.settings.schema import Settings


def load(path: Path, overrides: list[str] | None = None) -> Settings:
    """Read a settings file.

    Args:
        path: a TOML file.
        overrides: `section.key=value` each, applied over the file; the value is read as TOML, else as plain text.

    Raises:
        SettingsError: no such file, no TOML, an unknown key, a wrong type, an impossible value.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(f"there is no settings file {path}", "name one with --settings, or make one with: kar init") from error
    except IsADirectoryError as error:
        raise SettingsError(f"{path} is a folder, not a settings file", "name the TOML file inside it") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}", "mend the file at the place named") from error
    for override in overrides or []:
        _apply(data, override)
    return parse(data, where=str(path))


def parse(data: dict[str, Any], where: str = "settings") -> Settings:
    """Validate settings that are already a dict. Raises SettingsError with one line per fault."""
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        faults = [_fault(e) for e in error.errors()]
        raise SettingsError(f"{where}: " + "; ".join(faults), "mend the keys named") from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise SettingsError(f"--set {override!r} is not section.key=value", "write for example: --set llm.token_budget=100000")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    # a view's name holds a dot, so the keys of knowledge.imports and prompts.variants are taken whole
    if path[:2] == ["knowledge", "imports"] and len(path) > 2:
        path = [*path[:2], ".".join(path[2:])]
    if path[:2] == ["prompts", "variants"] and len(path) > 3:
        path = [*path[:2], ".".join(path[2:-1]), path[-1]]
    for name in path[:-1]:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise SettingsError(f"--set {override!r}: {name} is not a section", "name a key inside a section")
    data[path[-1]] = value


_UNTOLD = re.compile(r"features\.published|llm\.(endpoints\.\d+\.)?base_url|llm\.api_key_env")
"""What may hold credentials where it is wrong; the value is not repeated then."""


def _fault(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(error["loc"][-1]), _known_keys(error["loc"][:-1]), n=1)
        return f"unknown key {place}" + (f" (did you mean {near[0]}?)" if near else "")
    if error["type"] == "missing":
        return f"missing key {place}"
    is_told = not _UNTOLD.fullmatch(place) and not isinstance(error["input"], dict)
    return f"{place}: {error['msg']}" + (f" (got {error['input']!r})" if is_told else "")


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for name in path:
        annotation: Any = model.model_fields[str(name)].annotation if str(name) in model.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        inner = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)
