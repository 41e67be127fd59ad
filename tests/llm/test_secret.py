"""A key is blotted out of replies: whole, wherever it stands, and without harm to answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.llm.secret import blot_file, text_without, without
from kar.llm.transport import AioTransport, OpenAITransport, Transport
from tests.llm.loopback import loopback

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


@pytest.mark.parametrize("transport", [AioTransport, OpenAITransport])
async def test_a_reply_comes_without_the_key_whichever_way_it_came(transport: Callable[[str, str], Transport]) -> None:
    with loopback(lambda call: f"400:who is {KEY}?", key=KEY) as server:
        known, unknown = transport(server.base_url, KEY), transport(server.base_url, "sk-another-1234")
        replies = [await known.post(b'{"messages": [], "model": "tiny"}', "1"), await unknown.get("/models")]
        await known.close()
        await unknown.close()
    assert [reply.status for reply in replies] == [400, 401]
    assert replies[0].content == b"who is ***?"
    assert replies[1].content.startswith(b"Incorrect API key provided: ***.")


def test_a_file_is_cleaned_line_by_line_and_left_alone_without_a_key(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(f'{{"a": 1}}\n{{"b": "{KEY}"}}\n')
    blot_file(path, KEY)
    assert path.read_text() == '{"a": 1}\n{"b": "***"}\n'
    inode = path.stat().st_ino
    blot_file(path, KEY)
    assert path.stat().st_ino == inode
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]
