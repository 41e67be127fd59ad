"""Four seconds of what `python -m benchmarks.release_chaos` does for a minute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import kar.release
from benchmarks import release_chaos


@pytest.mark.slow
def test_readers_fail_at_nothing_while_a_publisher_works_or_dies_and_a_collector_removes(tmp_path: Path) -> None:
    rows = list(release_chaos.rows(4, tmp_path, users=400))
    figures: dict[str, list[float]] = {}
    for row in rows:
        figures.setdefault(row.name.split(":")[0], []).append(row.figure)
    assert set(release_chaos.MUST_BE_ZERO) <= set(figures)
    assert [figures[name] for name in release_chaos.MUST_BE_ZERO if any(figures[name])] == []
    assert min(figures["reads"]) > 0
    assert figures["releases published"][0] > 0
    assert figures["kills"][0] > 0


def test_a_reader_of_the_chaos_sees_two_nights_that_were_mixed(tmp_path: Path) -> None:
    for night in (1, 2):
        release_chaos.publish_night(tmp_path, night, users=40)
    first, second = (kar.release.open(tmp_path, as_of=kar.release.list_releases(tmp_path)[n].published_at) for n in (1, 0))
    generator = np.random.default_rng(1)
    assert release_chaos.nights(first, generator) == {1}
    assert release_chaos.nights(second, generator) == {2}
    second.manifest["date"] = first.manifest["date"]
    assert release_chaos.nights(second, generator) == {1, 2}
