"""The request key covers the exact body and the revision, and nothing else."""

from __future__ import annotations

import inspect
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from kar.llm.key import body_bytes, request_key

NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.integers(-9, 9), st.floats(0, 2), st.booleans(), st.none()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=6,
)
BODIES = st.dictionaries(NAMES, VALUES, max_size=5)


def shuffled(value: Any) -> Any:
    """The same value, its dictionaries written in the other order."""
    if isinstance(value, dict):
        return {key: shuffled(inner) for key, inner in reversed(value.items())}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


@given(BODIES)
def test_the_order_in_which_a_body_was_built_does_not_matter(body: dict[str, Any]) -> None:
    assert body_bytes(body) == body_bytes(shuffled(body))
    assert orjson.loads(body_bytes(body)) == body


@given(st.binary(min_size=1, max_size=200), st.data())
def test_any_changed_byte_changes_the_key(body: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(body) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda b: b != body[place]))
    changed = body[:place] + bytes([other]) + body[place + 1 :]
    assert request_key(body, "r") != request_key(changed, "r")
    assert request_key(body, "r") != request_key(body[:place] + body[place + 1 :], "r")
    assert request_key(body, "r") != request_key(body, "r2")


@given(BODIES, BODIES)
def test_two_bodies_have_one_key_only_if_they_are_one_body(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (request_key(body_bytes(one), "r") == request_key(body_bytes(two), "r")) == (body_bytes(one) == body_bytes(two))


def test_nothing_but_body_and_revision_can_reach_the_key() -> None:
    # host, port, concurrency and client version have no way in; the value is pinned, so no client version slips in either
    assert list(inspect.signature(request_key).parameters) == ["body", "revision"]
    assert request_key(b'{"model":"tiny"}', "r1") == "a416bff2a899e53c6cc63f9067d19b28ab93eaf98c9b6afeec0e5206a1d8dfd5"
