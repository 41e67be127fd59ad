"""The request key covers the exact body and the revision, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kar.llm.key import body_bytes, request_key

BODIES = st.dictionaries(st.text(max_size=8), st.one_of(st.text(max_size=20), st.integers(-9, 9), st.booleans(), st.none()), max_size=5)


@given(BODIES)
def test_the_order_of_keys_does_not_matter(body: dict[str, object]) -> None:
    assert body_bytes(body) == body_bytes(dict(reversed(body.items())))


@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_changed_byte_changes_the_key(body: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(body) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda b: b != body[place]))
    changed = body[:place] + bytes([other]) + body[place + 1 :]
    assert request_key(body, "r") != request_key(changed, "r")
    assert request_key(body, "r") != request_key(body, "r2")
