"""Several processes that train together give what one gives alone."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kar.model.distributed import Ranks
from kar.settings import AdaptorSettings
from kar.store import Home
from tests.model.conftest import make_world, small_settings
from tests.model.test_stage import DATE, run, settings_of
from tests.model.two_ranks import trained

ROOT = Path(__file__).parents[2]


def start(module: list[str], ranks: int, **more: str) -> list[subprocess.Popen[bytes]]:
    """One process per rank, meeting at a free port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", **more}
    return [
        subprocess.Popen(
            [sys.executable, "-m", *module], cwd=ROOT, env={**os.environ, **meeting, "RANK": str(rank)}, stderr=subprocess.PIPE
        )
        for rank in range(ranks)
    ]


def ended(processes: list[subprocess.Popen[bytes]]) -> list[str]:
    """What each said on stderr, all having ended well."""
    said = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return said


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    ended(start(["tests.model.two_ranks", str(tmp_path)], 2))
    for backbone, alone in trained().items():
        ranks = [np.load(tmp_path / f"{backbone}-{rank}.npz") for rank in range(2)]
        for found in ranks:
            np.testing.assert_allclose(found["test"], alone.test_logit, atol=1e-5)
            np.testing.assert_allclose(found["valid"], alone.valid_logit, atol=1e-5)
            np.testing.assert_allclose(found["loss"], [epoch.train_loss for epoch in alone.epochs], atol=1e-5)
        for name in ranks[0].files:
            np.testing.assert_array_equal(ranks[0][name], ranks[1][name])  # to the last bit: they choose alike
        assert alone.ranker is not None
        moved = [name for name, value in alone.ranker.state_dict().items() if np.abs(value.numpy()).sum() > 0]
        assert moved
        for name in moved:
            np.testing.assert_allclose(ranks[0][f"weight.{name}"], alone.ranker.state_dict()[name].numpy(), atol=1e-5)


@pytest.mark.parametrize("rows", [0, 1, 2, 5, 1024])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_row_of_a_batch_is_one_ranks(rows: int, count: int) -> None:
    shares = [list(range(rows))[Ranks(rank, count).share(rows)] for rank in range(count)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_sent_and_no_gradient_changes(settings_with: Callable[..., AdaptorSettings]) -> None:
    layer = torch.nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad
    Ranks().sum_gradients(layer)
    assert layer.weight.grad is before
    Ranks().tell({"no": "one hears it"})
    assert not torch.distributed.is_initialized()


def settings() -> Any:
    return settings_of(small_settings(epochs=2, arms=["base", "knowledge"], learning_rate=1e-3, stream_rows=60))


@pytest.mark.slow
def test_torchrun_runs_the_stage_once_and_its_tables_are_those_of_one_process(tmp_path: Path) -> None:
    alone = run(make_world(), Home(tmp_path / "alone", "world"), settings())
    said = ended(start(["tests.model.test_distributed", str(tmp_path / "both")], 2))
    assert len(re.findall("adaptor: done", said[0])) == 1
    assert "adaptor: running" not in said[1]  # it trained, and ran no stage
    from kar.store import Manifest

    both = Manifest.read(Home(tmp_path / "both", "world").partition("adaptor", DATE).manifest_path)
    assert {name: table["rows"] for name, table in both.tables.items()} == {name: table["rows"] for name, table in alone.tables.items()}
    for name in ("chosen_epochs", "parameters", "test_touched", "example_counts"):
        assert both.figures[name] == alone.figures[name], name


@pytest.mark.slow
def test_torchrun_starts_kar_itself_and_a_named_error_of_rank_0_ends_all(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "127.0.0.1:0", "-m", "kar", "status", "--settings", str(tmp_path / "none.toml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert done.stderr.count("kar: ") == 1
    assert "none.toml" in done.stderr


def lead() -> None:
    run(make_world(), Home(Path(sys.argv[1]), "world"), settings())


if __name__ == "__main__":
    from kar.model import follow

    follow.main(lead)
