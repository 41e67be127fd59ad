"""Killed trainings go on from their last epoch, and end as unbroken ones do, to the last bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from kar.model.resume import Work
from kar.model.train import Trained, train
from kar.settings import AdaptorSettings
from tests.model.killed import trained

ROOT = Path(__file__).parents[2]


def assert_same(one: Trained, other: Trained) -> None:
    assert one.valid_logit.tobytes() == other.valid_logit.tobytes()
    assert one.test_logit.tobytes() == other.test_logit.tobytes()
    assert [(e.train_loss, e.valid_auc, e.valid_logloss) for e in one.epochs] == [
        (e.train_loss, e.valid_auc, e.valid_logloss) for e in other.epochs
    ]
    assert one.chosen == other.chosen
    assert one.ranker is not None
    assert other.ranker is not None
    assert not one.ranker.training
    for name, value in one.ranker.state_dict().items():
        assert torch.equal(value, other.ranker.state_dict()[name]), name


def killed_in(epoch: int, state: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "tests.model.killed", str(state), str(epoch)], cwd=ROOT, capture_output=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()


@pytest.mark.slow
def test_a_process_killed_in_mid_epoch_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unbroken, state = trained(None), tmp_path / "work" / "state.safetensors"
    killed_in(3, state)
    assert [path.name for path in state.parent.iterdir()] == [state.name]
    with safe_open(state, "pt") as file:
        assert '"is_finished": false' in file.metadata()["kar"]
    resumed = trained(state)
    assert "goes on epochs=3 is_finished=False" in capsys.readouterr().err
    assert_same(resumed, unbroken)
    assert trained(state).epochs == resumed.epochs  # read back, seconds and all
    assert_same(trained(state), unbroken)
    assert "epochs=6 is_finished=True" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_killed_in_its_first_epoch_starts_anew(tmp_path: Path) -> None:
    killed_in(0, tmp_path / "state.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"a":1}         '])
def test_a_state_that_cannot_be_read_is_said_and_the_training_starts_anew(
    tmp_path: Path, content: bytes, world: Any, settings: AdaptorSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    data, state = world.load(settings), tmp_path / "state.safetensors"
    whole = train("fibinet", data, [], 1, settings, 1, "test", state_path=None)
    state.write_bytes(content)
    assert_same(train("fibinet", data, [], 1, settings, 1, "test", state_path=state), whole)
    assert "cannot be read as the state of a training" in capsys.readouterr().err


def test_a_trial_that_left_test_alone_is_no_finished_training(tmp_path: Path, world: Any, settings: AdaptorSettings) -> None:
    data, state = world.load(settings), tmp_path / "state.safetensors"
    trial = train("fibinet", data, [], 1, settings, 1, "test", state_path=state, with_test=False)
    assert len(trial.test_logit) == 0
    whole = train("fibinet", data, [], 1, settings, 1, "test", state_path=state)
    assert_same(whole, train("fibinet", data, [], 1, settings, 1, "test"))


def test_every_training_of_a_run_has_a_state_of_its_own(tmp_path: Path, settings_with: Callable[..., AdaptorSettings]) -> None:
    work, settings = Work(tmp_path), settings_with()
    first = work.file("din over thin, without:a/b, seed 1", settings)
    assert first.parent == tmp_path
    assert first == work.file("din over thin, without:a/b, seed 1", settings_with(seeds=[1, 2], arms=["base"], resamples=200, threads=2))
    others = [
        work.file("din over thin, without:a b, seed 1", settings),
        work.file("din over thin, without:a/b, seed 2", settings),
        work.file("din over thin, without:a/b, seed 1", settings_with(learning_rate=0.5)),
        work.file("din over thin, without:a/b, seed 1", settings_with(form="mlp")),
    ]
    assert len({first, *others}) == 5


def test_states_of_other_tables_are_not_gone_on_from_and_are_removed(tmp_path: Path) -> None:
    table, root = tmp_path / "example.parquet", tmp_path / "work"
    table.write_bytes(b"one")
    one = Work.of(root, {"example": table}, {"cap": 5})
    one.folder.mkdir(parents=True)
    (one.folder / "state.safetensors").write_bytes(b"")
    assert Work.of(root, {"example": table}, {"cap": 5}) == one
    assert one.folder.is_dir()
    assert Work.of(root, {"example": table}, {"cap": 6}) != one
    assert not one.folder.exists()
    table.write_bytes(b"other")
    assert Work.of(root, {"example": table}, {"cap": 5}) != one
