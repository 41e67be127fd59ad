"""Requests on their way: nothing twice, nothing that is paid for, a leader ahead of each large family, and never all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from kar.llm.ledger import Answer, Ledger
from kar.llm.stream import Request, Stream
from tests.llm.conftest import NOW, request_of


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "ledger") as opened:
        yield opened


def answer(request: Request, finish_reason: str = "stop") -> Answer:
    return Answer(
        request.key, request.body.decode(), "text", finish_reason, 1, 0, 1, 0, 0, "tiny", "r1", "t@1:abc", 1, "ok", "", NOW, NOW, NOW
    )


def family(name: str, count: int) -> list[Request]:
    return [request_of(f"{name} {n}", family=name) for n in range(count)]


async def taken(stream: Stream) -> list[Request]:
    """All that can be taken while nothing ends."""
    found = []
    while True:
        try:
            async with asyncio.timeout(0.02):
                request = await stream.take()
        except TimeoutError:
            return found
        if request is None:
            return found
        found.append(request)


async def test_requests_come_in_their_order_and_each_key_once(ledger: Ledger) -> None:
    requests = [request_of(f"p{n}") for n in range(9000)]
    stream = Stream(requests + requests[:5000] + [request_of("new")], ledger)
    assert await taken(stream) == [*requests, request_of("new")]
    assert not stream.has_more()


async def test_a_key_that_ended_well_is_not_taken_again_and_one_that_failed_is(ledger: Ledger) -> None:
    requests = [request_of(f"p{n}") for n in range(4096)]
    stream = Stream(requests + requests[:2], ledger)
    for _ in range(4096):
        request = await stream.take()
        assert request is not None
        if request == requests[0]:
            ledger.put(answer(request))
        stream.ended(request, None)
    assert await taken(stream) == [requests[1]]
    assert stream.from_ledger == 1


@pytest.mark.parametrize("lies", ["waiting", "committed", "compacted"])
async def test_what_the_ledger_holds_is_left_out_and_counted(ledger: Ledger, lies: str) -> None:
    requests = [request_of(f"p{n}") for n in range(5)]
    ledger.put(answer(requests[1]))
    ledger.put(answer(requests[3], "length"))
    {"waiting": len, "committed": lambda _: ledger.flush(), "compacted": lambda _: ledger.compact()}[lies](requests)
    stream = Stream(requests, ledger)
    assert await taken(stream) == [requests[0], requests[2], requests[4]]
    assert stream.from_ledger == 2
    assert [cut.key.hex() for cut in stream.cut] == [requests[3].key]


def test_a_stream_that_is_all_paid_for_has_no_more(ledger: Ledger) -> None:
    requests = [request_of(f"p{n}") for n in range(5)]
    for request in requests:
        ledger.put(answer(request))
    stream = Stream(iter(requests), ledger)
    assert not stream.has_more()
    assert stream.from_ledger == 5


async def test_no_more_than_a_chunk_is_read_ahead(ledger: Ledger) -> None:
    read = 0

    def requests() -> Iterator[Request]:
        nonlocal read
        for n in range(100_000):
            read += 1
            yield request_of(f"p{n}")

    stream = Stream(requests(), ledger)
    await stream.take()
    assert read <= 4096


async def test_one_of_a_large_family_goes_ahead_while_others_are_asked(ledger: Ledger) -> None:
    a, b, few = family("a", 20), family("b", 20), family("few", 8)
    stream = Stream([*a, *b, *few], ledger)
    assert await taken(stream) == [a[0], b[0], *few]
    stream.ended(b[0], answer(b[0]))
    assert await taken(stream) == b[1:]
    stream.ended(a[0], None)  # a leader that failed holds nobody back either
    assert await taken(stream) == a[1:]
    assert await stream.take() is None


async def test_a_family_that_is_warm_needs_nobody_ahead(ledger: Ledger) -> None:
    first, later = family("a", 4096), [request_of(f"later {n}", family="a") for n in range(20)]
    stream = Stream([*first, *later], ledger)
    assert await stream.take() == first[0]
    stream.ended(first[0], None)
    assert await taken(stream) == [*first[1:], *later]


async def test_without_warm_up_nobody_goes_ahead(ledger: Ledger) -> None:
    requests = family("a", 20)
    assert await taken(Stream(requests, ledger, warm_up=False)) == requests


async def test_of_one_family_alone_only_so_many_are_parked(ledger: Ledger) -> None:
    read = 0

    def requests() -> Iterator[Request]:
        nonlocal read
        for request in family("a", 10_000):
            read += 1
            yield request

    stream = Stream(requests(), ledger)
    assert len(await taken(stream)) == 1
    assert read <= 8192
