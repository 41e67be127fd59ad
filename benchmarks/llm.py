"""The figures of the language model rooms: one printed table, and rows of name, system, figure, unit, ratio as JSON.

    python -m benchmarks.llm [--out file.json] [--only throughput …] [--million]

    throughput   kar (ledger, concurrency gate and quality gate on) beside bare aiohttp, httpx2, openai and litellm: requests/s,
                 CPU, memory; a peer that is not installed is named and left out (PEERS_PYTHON: the interpreter that holds it)
    ceiling      the same without latency: what client and mock server can do at most
    memory       peak memory of the asking over the number of planned requests; --million adds 1,000,000 (about ten minutes)
    stages       peak memory and speed of the stages prompts and knowledge themselves, over the number of users; --million as above
    resume       calls paid twice after SIGKILL; calls when nothing, and when one input, changed
    rendering    prompts/s on one core
    ledger       µs a row, look-ups; --million: among 1,000,000 rows

Close other work first: client and mock server take a core each. The load average stands in the table.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from itertools import chain

from benchmarks import behaviour, ledger_costs, rendering, sections, stages, throughput
from benchmarks.table import Row

_SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "throughput": lambda a: throughput.rows(a.peers_python, repetitions=a.repetitions),
    "ceiling": lambda a: throughput.rows(a.peers_python, repetitions=a.repetitions, latency_ms=0),
    "memory": lambda a: behaviour.memory_rows((10_000, 100_000, 1_000_000) if a.million else (10_000, 100_000)),
    "stages": lambda a: stages.rows((10_000, 50_000, 1_000_000) if a.million else (10_000, 50_000)),
    "resume": lambda a: chain(behaviour.resume_rows(), behaviour.changed_rows()),
    "rendering": lambda a: rendering.rows(),
    "ledger": lambda a: ledger_costs.rows(1_000_000 if a.million else 200_000),
}
_USUAL = ("throughput", "memory", "stages", "resume", "rendering", "ledger")


def main() -> None:
    parser = sections.parser(__doc__, list(_SECTIONS), _USUAL)
    parser.add_argument("--million", action="store_true")
    parser.add_argument("--repetitions", type=int, default=throughput.REPETITIONS)
    parser.add_argument("--peers-python", default=os.environ.get("PEERS_PYTHON") or sys.executable)
    arguments = parser.parse_args()
    sections.run(_SECTIONS, arguments.only, arguments, arguments.out)


if __name__ == "__main__":
    main()
