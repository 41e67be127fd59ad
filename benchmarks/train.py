"""Training speed, in rows of name, system, figure, unit, ratio: forward, backward, optimiser and the gathering of batches.

    python -m benchmarks.train [--out file.json] [--only base knowledge …]

    base        without knowledge, as KAR's base sees it (5 events, one attribute): kar beside deepctr-torch's `fit` and FuxiCTR's training
                step, batch 512 and 2,048; a peer that is not installed is named and left out (PEERS_PYTHON: the interpreter that holds it)
    knowledge   one vector a side at the target, 768 and 384 wide, batch 512 and 2,048, beside the arithmetic floor
    history     30 events, alone and with the items' vectors in the history
    blocks      blocks of 1, 8, 32 and 64 neighbouring rows of a user
    compile     torch.compile of the backbone
    memory      what a training holds above its imports beside its inputs' size, and streaming from Parquet beside tables in memory
    scoring     all subjects through the adaptor, vectors/s beside the arithmetic floor

The examples are drawn in the shape of MovieLens-1M. A figure is the best of the windows: what else runs on a machine only ever takes
away. Two are given: rows/s by the clock, and rows per second of processor time, which is what a core of its own would do and holds on
a machine that others use. Three ways to use two cores: one thread (1 core), one training over two threads, and two trainings side by side
with a thread each, which is how kar trains; theirs is the sum. A ratio is to deepctr-torch on the same cores, or to the plain form.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import adapt, sections, table, train_floor, train_memory
from benchmarks.child import measure
from benchmarks.table import Row
from benchmarks.train_systems import Task

_BACKBONES = ("din", "fibinet")
_FAST = {"precision": "bfloat16", "block_rows": 32}
_PLAIN = "float32, shuffled rows"


@dataclass
class Bench:
    """Runs tasks and remembers what is missing.

    Args:
        folder: where the drawn examples lie.
        peers_python: the interpreter for FuxiCTR.
        seconds, windows: of each measurement.
    """

    folder: Path
    peers_python: str
    seconds: float
    windows: int
    missing: set[str] = field(default_factory=set)

    def task(self, system: str, backbone: str, **changes: Any) -> Task:
        return replace(Task(system, backbone, str(self.folder), seconds=self.seconds, windows=self.windows), **changes)

    def run(self, task: Task) -> dict[str, Any] | None:
        """What the task's process says, `rows_per_s` the best window; side by side: the sum of the processes'. None: not installed."""
        if task.system in self.missing:
            return None
        python = self.peers_python if task.system == "fuxictr" else sys.executable
        for left in self.folder.glob("here-*"):
            left.unlink()
        with ThreadPoolExecutor(task.side_by_side) as pool:
            said = [
                done.said
                for done in pool.map(lambda _: measure("benchmarks.train_systems", asdict(task), python), range(task.side_by_side))
            ]
        if "missing" in said[0]:
            self.missing.add(task.system)
            print(f"left out: {task.system} ({said[0]['missing']} is not installed for {python})", file=sys.stderr)
            return None
        for name in ("rows_per_s", "rows_per_cpu_s"):
            said[0][name] = max(sum(window) for window in zip(*(each[name] for each in said), strict=True))
        print(f"  {task.system} {task.backbone} {said[0]['rows_per_s']:,.0f} rows/s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        return said[0]

    def kar(self, backbone: str, **changes: Any) -> dict[str, Any]:
        """What kar's own process says; it is always installed."""
        said = self.run(self.task("kar", backbone, **changes))
        assert said is not None
        return said


def _pair(name: str, system: str, said: dict[str, Any], baseline: dict[str, Any] | None) -> Iterator[Row]:
    for key, unit in (("rows_per_s", "rows/s"), ("rows_per_cpu_s", "rows/CPU-s")):
        yield Row(name, system, table.rounded(said[key]), unit, round(said[key] / baseline[key], 3) if baseline else None)


def _base(bench: Bench) -> Iterator[Row]:
    cores: dict[str, dict[str, Any]] = {"1 thread": {}, "2 threads": {"threads": 2}, "2 side by side": {"side_by_side": 2}}
    for backbone in _BACKBONES:
        for batch in (512, 2048):
            for used, changes in cores.items() if batch == 512 else [("1 thread", {})]:
                name = f"base, {backbone}, batch {batch:,}, {used} (ratio to deepctr-torch)"
                peers = bench.run(bench.task("deepctr-torch", backbone, batch=batch, **changes))
                if peers:
                    yield from _pair(name, "deepctr-torch", peers, peers)
                if said := bench.run(bench.task("fuxictr", backbone, batch=batch, **changes)):
                    yield from _pair(name, "fuxictr", said, peers)
                elif used == "1 thread" and batch == 512:
                    yield Row(f"{name}: not installed, not measured", "fuxictr", 0, "rows/s")
                for what, how in ((f"kar, {_PLAIN}", {}), ("kar, bfloat16, blocks of 32", _FAST)):
                    said = bench.kar(backbone, batch=batch, **changes, **how)
                    yield from _pair(name, what, said, peers)


def _knowledge(bench: Bench) -> Iterator[Row]:
    for width in (768, 384):
        for precision in ("float32", "bfloat16"):
            speed = train_floor.gflop_per_s(precision, 448, width)
            yield Row(f"products of one core, 448 × {width} by {width} × 896", precision, table.rounded(speed), "GFLOP/s")
            for backbone in _BACKBONES:
                for batch in (512, 2048):
                    yield from _beside_floor(bench, backbone, width, batch, precision, speed)
    for backbone in _BACKBONES:
        for used, changes in (("2 threads", {"threads": 2}), ("2 side by side", {"side_by_side": 2})):
            said = bench.kar(backbone, knowledge="target", **_FAST, **changes)
            yield from _pair(f"knowledge at the target, {backbone}, 768 wide, batch 512, {used}", "kar, bfloat16, blocks of 32", said, None)


def _beside_floor(bench: Bench, backbone: str, width: int, batch: int, precision: str, gflop_per_s: float) -> Iterator[Row]:
    """One thread, beside what its products alone would take; the ratio is the share of that floor that is reached."""
    for block in (1, 32):
        said = bench.kar(backbone, knowledge="target", width=width, batch=batch, precision=precision, block_rows=block)
        name = f"knowledge at the target, {backbone}, {width} wide, batch {batch:,}, blocks of {block}, 1 thread (ratio to its floor)"
        floor = gflop_per_s * 1e9 / said["flop"]
        yield Row(
            name, f"floor: {said['flop'] / 1e6:.2f} MFLOP a row, {said['subjects']:.2f} subjects a row", table.rounded(floor), "rows/CPU-s"
        )
        yield from _pair(name, f"kar, {precision}", said, {"rows_per_s": floor, "rows_per_cpu_s": floor})


def _history(bench: Bench) -> Iterator[Row]:
    seen = {"base": {}, "knowledge-aware, 384 wide": {"knowledge": "history", "width": 384}}
    for backbone in _BACKBONES:
        for what, changes in seen.items():
            for batch in (512, 2048):
                plain = None
                for system, how in ((f"kar, {_PLAIN}", {}), ("kar, bfloat16, blocks of 32", _FAST)):
                    said = bench.kar(backbone, base="same_evidence", batch=batch, **changes, **how)
                    plain = plain or said
                    yield from _pair(f"30 events, {what}, {backbone}, batch {batch:,}, 1 thread (ratio to {_PLAIN})", system, said, plain)


def _blocks(bench: Bench) -> Iterator[Row]:
    for backbone in _BACKBONES:
        for what, changes in (
            ("target, 768 wide", {"knowledge": "target"}),
            ("history of 30, 384 wide", {"knowledge": "history", "width": 384, "base": "same_evidence"}),
        ):
            first = None
            for block in (1, 8, 32, 64):
                said = bench.kar(backbone, precision="bfloat16", block_rows=block, batch=1024, **changes)
                first = first or said
                name = f"blocks: {what}, {backbone}, batch 1,024, bfloat16, 1 thread (ratio to blocks of 1)"
                yield from _pair(name, f"kar, blocks of {block}, {said['subjects']:.2f} subjects a row", said, first)


def _compile(bench: Bench) -> Iterator[Row]:
    for backbone in _BACKBONES:
        plain = bench.kar(backbone, **_FAST)
        compiled = bench.kar(backbone, compile=True, **_FAST)
        for system, said in (("kar, as it is", plain), ("kar, torch.compile", compiled)):
            yield from _pair(f"compile: base, {backbone}, batch 512, 1 thread (ratio to as it is)", system, said, plain)


def _memory(bench: Bench) -> Iterator[Row]:
    yield from train_memory.memory_rows(train_memory.ML_1M, "ML-1M shape, 768-d", 4 * bench.seconds)


def _scoring(bench: Bench) -> Iterator[Row]:
    for threads in (1, 2):
        yield from adapt.rows(threads=threads)


_SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "base": _base,
    "knowledge": _knowledge,
    "history": _history,
    "blocks": _blocks,
    "compile": _compile,
    "memory": _memory,
    "scoring": _scoring,
}


def main() -> None:
    parser = sections.parser(__doc__, list(_SECTIONS))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--peers-python", default=os.environ.get("PEERS_PYTHON") or sys.executable)
    arguments = parser.parse_args()
    from benchmarks import train_kar, train_world

    with tempfile.TemporaryDirectory() as folder:
        train_kar.write(train_world.make(), Path(folder))
        bench = Bench(Path(folder), arguments.peers_python, arguments.seconds, arguments.windows)
        sections.run(_SECTIONS, arguments.only, bench, arguments.out)


if __name__ == "__main__":
    main()
