"""Releases, in rows of name, system, figure, unit, ratio: publishing, a night after it, the as-of join, streaming, opening.

    python -m benchmarks.release [--out file.json] [--only publish join …] [--scale 0.01] [--windows 3]

    publish   1 M users × 32 floats and 50,000 items, verified, beside the same bytes hashed, written, fsynced and read back; 10 M users
    night     the publication after a night in which 1 % changed, beside the full one: seconds and bytes
    flow      the same from sources to promoted release, 200,000 users and 50,000 items, at the mock server (benchmarks/release_night.py)
    join      10 M examples × 3 releases × 1 M users to row numbers, from Parquet, beside DuckDB's ASOF JOIN, polars and pandas
    stream    4 M examples with the vectors of user and item in batches of 8,192, beside pyarrow over the materialised file and beside
              nothing but the gathering; ids as ints and as texts
    open      open the served release and look up 10,000 random ids; ints and texts
    chaos     readers against publishers and a collector, with kills (benchmarks/release_chaos.py)

Everything is drawn from seeds in a realistic shape (`benchmarks.release_world`). Each system runs in a process of its own; a figure is the
best of its windows: what else runs on a machine only ever takes away. Two are given: seconds by the clock, and of the processor, which
hold on a machine that others use. A ratio is to the baseline that the name names.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks import mock_server, sections, table
from benchmarks import release_world as world
from benchmarks.child import Measured, measure
from benchmarks.release_systems import Task
from benchmarks.table import Row

_PEERS = {"duckdb": "DuckDB ASOF JOIN", "polars": "polars join_asof, streaming", "pandas": "pandas merge_asof"}


@dataclass(frozen=True)
class Bench:
    """Where the drawn data lie, and how much of them there is.

    Args:
        scale: of every count of rows; 1: as the targets say.
    """

    folder: Path
    scale: float
    windows: int

    def rows(self, count: int) -> int:
        return max(200, round(count * self.scale))

    def run(self, what: str, system: str = "kar", folder: Path | None = None, **task: Any) -> Measured | None:
        """None: the system is not installed."""
        made = Task(what, system, str(folder or self.folder), **{"windows": self.windows, **task})
        done = measure("benchmarks.release_systems", asdict(made))
        if "missing" in done.said:
            print(f"  left out: {system} ({done.said['missing']} is not installed)", file=sys.stderr)
            return None
        told = {name: value for name, value in done.said.items() if name.endswith("wall_s")}
        print(f"  {what} {system} {told}, {done.peak_mb:.0f} MB, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        return done

    def must(self, what: str, system: str = "kar", folder: Path | None = None, **task: Any) -> Measured:
        done = self.run(what, system, folder, **task)
        assert done is not None
        return done

    def published(self, *, text: bool) -> Path:
        """Three nights of 1 M users and 50,000 items, 10 M examples over them and 4 M after the last; made once for ints and once for texts."""
        folder = self.folder / ("text" if text else "int")
        if not folder.exists():
            from kar.release.publish import publish

            folder.mkdir()
            users, items = world.side("user", self.rows(1_000_000), 1, text=text), world.side("item", self.rows(50_000), 2, text=text)
            at = []
            for day in range(3):
                if day:
                    users, items = world.changed(users, 0.3, day, 10 * day), world.changed(items, 0.05, day, 10 * day + 1)
                publish(folder / "published", (users, items), world.facts(day))
                at.append(world.facts(day).published_at)
            ids = users.ids, items.ids
            after = dt.timedelta(days=3)
            if not text:
                world.write_examples(world.examples(self.rows(10_000_000), *ids, 3, 7), folder / "examples.parquet")
                pq.write_table(world.versions(at, users.ids), folder / "versions.parquet")
            world.write_examples(world.examples(self.rows(4_000_000), *ids, 1, 8, start=after), folder / "stream.parquet")
        return folder


def _seconds(
    name: str, system: str, wall_s: list[float], cpu_s: list[float], baseline: tuple[list[float], list[float]] | None = None
) -> Iterator[Row]:
    """The best window by the clock and by the processor."""
    for used, unit, base in ((wall_s, "s", baseline and baseline[0]), (cpu_s, "CPU-s", baseline and baseline[1])):
        yield Row(name, system, table.rounded(min(used)), unit, round(min(used) / min(base), 3) if base else None)


def _publish(bench: Bench) -> Iterator[Row]:
    for count in (1_000_000, 10_000_000):
        with tempfile.TemporaryDirectory(dir=bench.folder) as named:
            folder, users, items = Path(named), bench.rows(count), bench.rows(50_000)
            what = f"publish {users:,} users × {world.WIDTH} floats and {items:,} items, verified"
            bench.must("draw", folder=folder, users=users, items=items)
            windows = bench.windows if count == 1_000_000 else 1
            done = bench.must("publish", folder=folder, users=users, items=items, windows=windows)
            floor = bench.must("floor", folder=folder, bytes=done.said["bytes"], windows=windows)
            base = floor.said["wall_s"], floor.said["cpu_s"]
            yield from _seconds(
                f"{what} (ratio to its bytes hashed, written, fsynced, read)", "kar", done.said["wall_s"], done.said["cpu_s"], base
            )
            yield from _seconds(f"{what}: its bytes alone", f"floor: {done.said['bytes'] / 1e6:,.0f} MB", *base)
            yield Row(f"{what}: highest memory, maps of the drawn vectors included", "kar", table.rounded(done.peak_mb), "MB")
            yield Row(f"{what}: highest memory without maps", "kar", table.rounded(done.said["anonymous_mb"]), "MB")


def _night(bench: Bench) -> Iterator[Row]:
    users, items = bench.rows(1_000_000), bench.rows(50_000)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        said = bench.must("night", folder=Path(folder), users=users, items=items).said
    what = f"publish {users:,} users and {items:,} items"
    for unit, key in (("s", "wall_s"), ("CPU-s", "cpu_s"), ("bytes", "bytes")):
        full, night = said[f"full_{key}"], said[f"night_{key}"]
        yield Row(f"{what}: all of it (its ratio)", "kar", table.rounded(full), unit, 1.0)
        yield Row(f"{what}: a night later, 1 % changed (ratio to all of it)", "kar", table.rounded(night), unit, round(night / full, 4))


def _flow(bench: Bench) -> Iterator[Row]:
    users, items = bench.rows(200_000), bench.rows(50_000)
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder, mock_server.serving(0, is_varied=True) as mock:
        task = {"folder": folder, "users": users, "items": items, "base_url": mock.base_url}
        said = measure("benchmarks.release_night", task).said
        asked = mock.stats().answered
    first, second = said["first"], said["second"]
    if first["release"] == second["release"]:
        raise RuntimeError("the second night changed nothing")
    what = f"a night of {users:,} users and {items:,} items, from sources to promoted release, {asked:,} answers at once"
    for stage in [*first["seconds"], "all stages"]:
        one, two = (sum(n["seconds"].values()) if stage == "all stages" else n["seconds"][stage] for n in (first, second))
        yield Row(f"{what}: {stage}, the first night (its ratio)", "kar", table.rounded(one), "s", 1.0)
        yield Row(
            f"{what}: {stage}, 1 % of the users a night later (ratio to the first)", "kar", table.rounded(two), "s", round(two / one, 3)
        )
    yield Row(f"{what}: published, the first night (its ratio)", "kar", first["bytes"], "bytes", 1.0)
    share = round(second["bytes"] / first["bytes"], 4)
    yield Row(f"{what}: published, 1 % of the users a night later (ratio to the first)", "kar", second["bytes"], "bytes", share)


def _join(bench: Bench) -> Iterator[Row]:
    folder = bench.published(text=False)
    what = f"as-of join {bench.rows(10_000_000):,} examples × 3 releases × {bench.rows(1_000_000):,} users to row numbers"
    name = f"{what}, from Parquet"
    ours = bench.must("join", folder=folder).said
    yield from _seconds(f"{what}, users and items, the examples read before", "kar", ours["read_before_wall_s"], ours["read_before_cpu_s"])
    base = ours["wall_s"], ours["cpu_s"]
    yield from _seconds(f"{name} (ratio to kar)", "kar, users and items", *base, base)
    for system, called in _PEERS.items():
        if done := bench.run("join", system, folder):
            said = done.said
            if (said["hits"], said["sum"]) != (ours["hits"], ours["sum"]):
                raise RuntimeError(f"{system} joins otherwise: {said['hits']:,} hits, kar {ours['hits']:,}")
            yield from _seconds(f"{name} (ratio to kar)", f"{called}, users only", said["wall_s"], said["cpu_s"], base)
            yield Row(f"{name}: highest memory", called, table.rounded(done.peak_mb), "MB")
        else:
            yield Row(f"{name}: not installed, not measured", called, 0, "s")


def _stream(bench: Bench) -> Iterator[Row]:
    from kar.release import join_files

    for text in (False, True):
        folder = bench.published(text=text)
        systems = ["kar", "kar, shuffled"]
        if not text:
            (folder / "joined.parquet").unlink(missing_ok=True)
            join_files(folder / "published", folder / "stream.parquet", folder / "joined.parquet")
            systems = ["pyarrow, materialised", *systems, "floor"]
        name = f"stream {bench.rows(4_000_000):,} examples with vectors of user and item, {'text' if text else 'int'} ids, one process"
        base: dict[str, list[float]] = {}
        for system in systems:
            done = bench.must("stream", system, folder)
            base = base or done.said
            called = "floor: the gathering alone, by row numbers" if system == "floor" else system
            suffix = "" if text else " (ratio to pyarrow, materialised)"
            for key, unit in (("wall_s", "rows/s"), ("cpu_s", "rows/CPU-s")):
                speed, first = done.said["rows"] / min(done.said[key]), base["rows"] / min(base[key])  # type: ignore[operator]
                yield Row(f"{name}{suffix}", called, table.rounded(speed), unit, None if text else round(speed / first, 3))
            yield Row(f"{name}: highest memory", called, table.rounded(done.peak_mb), "MB")


def _open(bench: Bench) -> Iterator[Row]:
    for text in (False, True):
        folder = bench.published(text=text)
        done = bench.must("open", folder=folder, windows=max(10, bench.windows)).said
        name = f"open a release of {bench.rows(1_000_000):,} users and look up 10,000 random {'text' if text else 'int'} ids, warm"
        for key, unit in (("wall_s", "ms"), ("cpu_s", "CPU-ms")):
            yield Row(name, "kar", table.rounded(1000 * min(done[key])), unit)


def _chaos(bench: Bench) -> Iterator[Row]:
    from benchmarks import release_chaos

    yield from release_chaos.rows(60.0 if bench.scale == 1 else 10.0, bench.folder / "chaos")


SECTIONS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "publish": _publish,
    "night": _night,
    "flow": _flow,
    "join": _join,
    "stream": _stream,
    "open": _open,
    "chaos": _chaos,
}


def main() -> None:
    parser = sections.parser(__doc__, list(SECTIONS))
    parser.add_argument("--scale", type=float, default=1.0, help="of every count of rows")
    parser.add_argument("--windows", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to draw, on the disk that is to be measured; default: the temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="kar-bench-") as folder:
        bench = Bench(Path(folder), arguments.scale, arguments.windows)
        sections.run(SECTIONS, arguments.only, bench, arguments.out)


if __name__ == "__main__":
    main()
