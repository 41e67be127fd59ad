from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from kar.errors import SettingsError
from kar.settings import Settings
from kar.text.tokens import token_counter, tokenizer_files


def test_without_a_tokenizer_four_characters_are_a_token_and_it_says_so(settings_of: Callable[..., Settings]) -> None:
    counter = token_counter(settings_of().llm, None)
    assert [counter(""), counter("abcd"), counter("abcde")] == [0, 1, 2]
    assert counter.is_estimate
    assert "estimate" in counter.nature


def test_with_a_tokenizer_the_counts_are_its_own(settings_of: Callable[..., Settings], tokenizer_folder: Path) -> None:
    counter = token_counter(settings_of().llm, tokenizer_folder)
    reference = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    texts = ["- Film 12 (1995): 4 of 5 stars\n", "", "Žižek 映画 🚀"]
    assert counter.many(texts).tolist() == [len(reference.encode(text).ids) for text in texts]
    assert not counter.is_estimate


def test_the_settings_folder_goes_before_the_local_models(settings_of: Callable[..., Settings], tokenizer_folder: Path) -> None:
    settings = settings_of(llm={"tokenizer": str(tokenizer_folder)}).llm
    assert tokenizer_files(settings, None) == [tokenizer_folder / "tokenizer.json"]
    assert token_counter(settings, Path("nowhere")).nature == f"tokenizer.json of {tokenizer_folder.name}"


def test_a_truncating_tokenizer_counts_the_whole_text(settings_of: Callable[..., Settings], tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    counter = token_counter(settings_of().llm, tmp_path)
    assert counter("film " * 50) >= 50
    assert counter("film") == 1


@pytest.mark.parametrize("content", [None, "not json", "[]", json.dumps({"model": {}}), json.dumps({"vocab": 1})])
def test_a_folder_without_a_tokenizer_is_a_settings_error(
    settings_of: Callable[..., Settings], tmp_path: Path, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(SettingsError, match=r"tokenizer.json"):
        token_counter(settings_of(llm={"tokenizer": str(tmp_path)}).llm, None)
