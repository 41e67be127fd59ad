"""A key is blotted out of replies: whole, wherever it stands, and without harm to answers."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from kar.llm.secret import blot_file, text_without, without

KEY = "sk-a/b+c=12345"


@given(st.text(), st.text(), st.text(alphabet="abcdefgh0123456789/+=-_", min_size=8))
def test_nothing_is_left_of_a_key_and_all_of_the_rest(before: str, after: str, key: str) -> None:
    found = without(f"{before}«{key}»{after}".encode("utf-8", "replace"), key)
    assert key.encode() not in found
    assert "«***»".encode() in found


def test_a_key_is_found_as_urls_and_json_write_it() -> None:
    assert text_without(rf"?key=sk-a%2Fb%2Bc%3D12345 and sk-a\/b+c=12345 and {KEY}", KEY) == "?key=*** and *** and ***"


def test_a_word_that_a_keyless_server_takes_for_a_key_stays_in_answers() -> None:
    assert without(b"The hall is EMPTY.", "EMPTY", is_answer=True) == b"The hall is EMPTY."
    assert without(b"invalid key EMPTY", "EMPTY") == b"invalid key ***"
    assert without(b"The hall is empty.", "") == b"The hall is empty."


def test_a_file_is_cleaned_line_by_line_and_left_alone_without_a_key(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"a": 1}}\n{{"b": "{KEY}"}}\n')
    blot_file(path, KEY)
    assert path.read_text() == '{"a": 1}\n{"b": "***"}\n'
    inode = path.stat().st_ino
    blot_file(path, KEY)
    assert path.stat().st_ino == inode
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]
