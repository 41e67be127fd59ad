"""The looks of several processes at the same servers, as one course over time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from kar.llm.pace import Pace

Looks = tuple[float, Sequence[Pace]]
"""When a process began to look (seconds on a clock that all share), and what it saw."""


def merged(processes: Sequence[Looks]) -> list[Pace]:
    """What all of them saw, oldest first, a row for each look of any.

    What is a process's own (window, in flight, tokens a second, answers) is summed over those that are at it; what the server
    says of itself (queue, cache) is taken as the looker saw it. Seconds count from the first beginning.
    """
    first = min((began for began, _ in processes), default=0.0)
    seen: dict[int, list[tuple[float, int, Pace]]] = defaultdict(list)
    for process, (began, rows) in enumerate(processes):
        for row in rows:
            seen[row.endpoint].append((round(began - first + row.second, 3), process, row))
    made = {(row.second, row.endpoint): row for looks in seen.values() for row in _of_endpoint(looks)}
    return [made[key] for key in sorted(made)]


def thinned(rows: Sequence[Pace], most: int) -> list[Pace]:
    """At most so many rows of each endpoint, evenly: of every two the later one, with the mean speed of both."""
    by_endpoint: dict[int, list[Pace]] = defaultdict(list)
    for row in rows:
        by_endpoint[row.endpoint].append(row)
    for endpoint, own in by_endpoint.items():
        while len(own) > max(most, 1):
            odd = len(own) % 2
            pairs = zip(own[odd::2], own[odd + 1 :: 2], strict=True)
            own = own[:odd] + [replace(b, tokens_per_s=round((a.tokens_per_s + b.tokens_per_s) / 2, 2)) for a, b in pairs]
        by_endpoint[endpoint] = own
    return sorted((row for own in by_endpoint.values() for row in own), key=lambda row: (row.second, row.endpoint))


def _of_endpoint(looks: list[tuple[float, int, Pace]]) -> list[Pace]:
    looks.sort(key=lambda look: look[:2])
    ends = {process: second for second, process, _ in looks}
    newest: dict[int, Pace] = {}
    thrown_out, before = -1, dict[int, int]()  # preemptions so far; what they were as a process began
    made = []
    for second, process, row in looks:
        newest[process] = row
        at_it = [known for other, known in newest.items() if ends[other] >= second]
        if row.preemptions >= 0:
            thrown_out = max(thrown_out, before.setdefault(process, max(thrown_out, 0)) + row.preemptions)
        made.append(
            replace(
                row,
                second=second,
                window=round(sum(known.window for known in at_it), 2),
                in_flight=sum(known.in_flight for known in at_it),
                preemptions=thrown_out,
                answered=sum(known.answered for known in newest.values()),
                tokens_per_s=round(sum(known.tokens_per_s for known in at_it), 2),
            )
        )
    return made
