"""How many tokens a text has for the served model: by its own tokenizer where its folder is at hand, else an estimate."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kar.errors import SettingsError
from kar.settings.schema import LLMSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHARS_PER_TOKEN = 4.0
MESSAGE_TOKENS = 5  # a chat template's own tokens around one message; ChatML: <|im_start|> role \n … <|im_end|> \n
REPLY_TOKENS = 3  # and those that open the answer
_FILE = "tokenizer.json"
_CHUNK = 5_000
_REMEMBERED = 100_000  # texts, about 15 MB
_REMEMBERED_CHARS = 200


class TokenCounter:
    """Counts tokens, without special ones. Called with one text it gives an int; `many` is the fast way.

    Args:
        tokenizer: the served model's; None: 4 characters a token, rounded up.
        nature: how the counts come about, for the manifest.
    """

    def __init__(self, tokenizer: Tokenizer | None, nature: str) -> None:
        self._tokenizer, self.nature = tokenizer, nature
        self.is_estimate = tokenizer is None
        self._known: dict[str, int] = {}  # short texts: a history's lines come again with every part of the table

    def __call__(self, text: str) -> int:
        return int(self.many([text])[0])

    def many(self, texts: list[str]) -> np.ndarray:
        """int64 [N]."""
        if self._tokenizer is None:
            return np.fromiter((math.ceil(len(text) / CHARS_PER_TOKEN) for text in texts), np.int64, len(texts))
        known = self._known
        counts = np.fromiter((known.get(text, -1) for text in texts), np.int64, len(texts))
        if len(missing := np.flatnonzero(counts < 0)):
            fresh = [texts[n] for n in missing.tolist()]
            counts[missing] = self._count(self._tokenizer, fresh)
            if len(known) + len(fresh) > _REMEMBERED:
                known.clear()
            pairs = zip(fresh[:_REMEMBERED], counts[missing].tolist(), strict=False)
            known.update((text, count) for text, count in pairs if len(text) <= _REMEMBERED_CHARS)
        return counts

    @staticmethod
    def _count(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
        counts = np.empty(len(texts), np.int64)
        for start in range(0, len(texts), _CHUNK):  # an encoding keeps strings and offsets; 5,000 at a time keep memory small
            encoded = tokenizer.encode_batch_fast(texts[start : start + _CHUNK], add_special_tokens=False)
            counts[start : start + len(encoded)] = [len(e) for e in encoded]
        return counts

    def messages(self, contents: list[str]) -> int:
        """Tokens of a chat prompt, the chat template's own included (as ChatML has them)."""
        return int(self.many(contents).sum()) + MESSAGE_TOKENS * len(contents) + REPLY_TOKENS


def token_counter(settings: LLMSettings, model_folder: Path | None) -> TokenCounter:
    """The counter for the served model.

    Args:
        settings: `tokenizer` names a folder with tokenizer.json, or is empty.
        model_folder: the local model's folder, if the model is local.

    Raises:
        SettingsError: the folder has no readable tokenizer.json.
    """
    folder = Path(settings.tokenizer).expanduser() if settings.tokenizer else model_folder
    if folder is None:
        return TokenCounter(None, f"estimate: {CHARS_PER_TOKEN:g} characters a token (llm.tokenizer names no folder)")
    return TokenCounter(_load(folder), f"{_FILE} of {folder.name}")


def tokenizer_files(settings: LLMSettings, model_folder: Path | None) -> list[Path]:
    """The files whose bytes decide the counts."""
    folder = Path(settings.tokenizer).expanduser() if settings.tokenizer else model_folder
    return [folder / _FILE] if folder is not None and (folder / _FILE).is_file() else []


def _load(folder: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    path = folder / _FILE
    do = "set llm.tokenizer to a folder with the served model's tokenizer.json, or leave it empty for an estimate"
    if not path.is_file():
        raise SettingsError(f"llm.tokenizer: {folder} holds no {_FILE}", do)
    text = path.read_text(encoding="utf-8")
    if not _is_tokenizer(text):  # asked before the Rust binding, which raises bare Exception
        raise SettingsError(f"{path} is no tokenizer", do)
    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _is_tokenizer(text: str) -> bool:
    try:
        content = json.loads(text)
    except ValueError:
        return False
    return isinstance(content, dict) and isinstance(content.get("model"), dict) and "vocab" in content["model"]
