"""A benchmark in sections: which are run, where the rows go, and how loaded the machine was; printed and written as it goes."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks import table
from benchmarks.table import Row

Given = TypeVar("Given")


def parser(doc: str | None, sections: Sequence[str], usual: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """With --out and --only.

    Args:
        doc: shown by --help as it is written.
        usual: what is run where nothing is said; None: all sections.
    """
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, help="JSON file for the rows")
    made.add_argument("--only", nargs="+", choices=list(sections), default=list(usual or sections))
    return made


def run(sections: Mapping[str, Callable[[Given], Iterable[Row]]], only: Sequence[str], given: Given, out: Path | None) -> None:
    """Run the named sections one after another and print the table.

    Args:
        given: what every section is called with.
        out: written after each row, so that a long run that fails loses no figure; None: only printed.
    """
    found: list[Row] = []
    for name in only:
        started, load_before = time.perf_counter(), os.getloadavg()[0]
        print(f"{name} …", file=sys.stderr)
        for row in sections[name](given):
            found.append(row)
            if out:
                table.write(found, out)
        print(f"  {name} took {time.perf_counter() - started:.0f} s", file=sys.stderr)
        found.append(Row(f"load average when {name} began", "machine", table.rounded(load_before), f"of {os.cpu_count()} cores"))
        if out:
            table.write(found, out)
    print(table.text(found))
