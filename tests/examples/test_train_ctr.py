"""The downstream job: it needs only `kar.release`, finds planted knowledge, and names what is wrong with its input."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

import kar.release
from kar.release import pointer, remote
from kar.release.publish import publish
from kar.release.rows import Pooled
from tests.release import store as stores
from tests.release import world

JOB = Path(__file__).resolve().parents[2] / "examples" / "train_ctr.py"


@pytest.fixture(scope="module")
def job() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_ctr", JOB)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_ctr"] = module
    spec.loader.exec_module(module)
    return module


def _run(job: ModuleType, folder: Path, *more: str) -> int:
    result: int = job.main(
        ["--release", str(folder / "published"), "--examples", str(folder / "example.parquet"), "--batch-size", "128", *more]
    )
    return result


@pytest.mark.slow
def test_planted_knowledge_is_found_for_new_users(job: ModuleType, planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(job, planted) == 0
    shown = capsys.readouterr().out
    score = {line.split()[0]: float(line.split()[1]) for line in shown.splitlines() if line.startswith(("without", "with "))}
    assert score["without"] < 0.6
    assert score["with"] > 0.75
    assert "coverage   of the test examples: user.preference 80.0%, item.facts 100.0%" in shown
    assert "ranks better: the interval of the AUC lies above 0" in shown
    assert "train 2,560, valid 640, test 640" in shown


def test_examples_older_than_the_release_meet_nothing_and_the_job_says_so(
    job: ModuleType, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(planted / "example.parquet")
    early = pa.array([world.day(1)] * table.num_rows, table.schema.field("event_at").type)
    pq.write_table(table.set_column(2, "event_at", early), tmp_path / "early.parquet")
    arguments = ("--examples", str(tmp_path / "early.parquet"), "--epochs", "1")
    assert _run(job, planted, *arguments) == 0
    shown = capsys.readouterr().out
    assert "user.preference 0.0%, item.facts 0.0%" in shown
    assert "for a study on old data: --clock evidence" in shown
    assert _run(job, planted, *arguments, "--clock", "evidence") == 0
    assert "user.preference 80.0%, item.facts 100.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["label", "split"]), "lacks the columns ['label', 'split']"),
        (lambda t: t.set_column(3, "label", pa.array([2] * t.num_rows)), "they must be 0 or 1"),
        (lambda t: t.set_column(4, "split", pa.array(["train"] * t.num_rows)), "split 'valid' of"),
        (lambda t: t.set_column(0, "user_id", t.column(0).cast(pa.string())), "user ids are int64 in this release"),
    ],
)
def test_examples_that_do_not_fit_are_named(
    job: ModuleType, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: object, words: str
) -> None:
    pq.write_table(change(pq.read_table(planted / "example.parquet")), tmp_path / "bad.parquet")  # type: ignore[operator]
    assert _run(job, planted, "--examples", str(tmp_path / "bad.parquet")) == 1
    assert words in capsys.readouterr().err


def test_missing_files_are_named(job: ModuleType, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(job, planted, "--examples", str(tmp_path / "no.parquet")) == 1
    assert "there is no file" in capsys.readouterr().err
    assert _run(job, planted, "--release", str(tmp_path / "no")) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_while_the_job_trains_a_lease_keeps_its_release_and_afterwards_none_is_left(job: ModuleType, planted: Path, tmp_path: Path) -> None:
    shutil.copytree(planted / "published", tmp_path / "published")
    held: list[str] = []

    def watched(*of: object) -> None:
        held.extend(json.loads(path.read_text())["release"] for path in (tmp_path / "published" / "leases").glob("*.json"))

    compare, job.compare = job.compare, watched
    try:
        arguments = ["--release", str(tmp_path / "published"), "--examples", str(planted / "example.parquet"), "--clock", "evidence"]
        assert job.main(arguments) == 0
        assert held == [kar.release.open(tmp_path / "published").id]
        assert job.main([*arguments, "--lease-s", "0"]) == 0
    finally:
        job.compare = compare
    assert len(held) == 1
    assert not list((tmp_path / "published" / "leases").glob("*.json"))


def test_a_study_is_repeated_by_the_release_that_was_served_then(
    job: ModuleType, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (entry.release for entry in pointer.read_current(planted / "published").served)
    for when, served in (("2026-11-02T20:00:00+00:00", first), ("2026-11-09T00:00:00+00:00", second)):
        assert _run(job, planted, "--clock", "evidence", "--as-of", when, "--epochs", "1") == 0
        assert f"release    {served}" in capsys.readouterr().out


def test_the_release_that_is_named_is_read_and_not_the_one_served_now(
    job: ModuleType, planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (entry.release for entry in pointer.read_current(planted / "published").served)
    assert kar.release.open(planted / "published").id == second != first
    for named in (first, second):
        assert _run(job, planted, "--clock", "evidence", "--release-id", named, "--epochs", "1") == 0
        assert f"release    {named}, space" in capsys.readouterr().out
    assert _run(job, planted, "--clock", "evidence", "--release-id", "2026-11-30-gone") == 1
    assert "holds no release 2026-11-30-gone" in capsys.readouterr().err


def test_a_release_is_read_by_its_id_out_of_an_object_store(
    job: ModuleType, planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with stores.serving() as store:
        for name, value in {**stores.ENVIRONMENT, "AWS_ENDPOINT_URL": store.endpoint, "KAR_CACHE": str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        fs.S3FileSystem(endpoint_override=store.endpoint, allow_bucket_creation=True).create_dir("shop")
        first, second = (remote.publish("s3://shop/night", world.sides(), world.facts(world.day(number))).path.name for number in (0, 1))
        assert kar.release.open("s3://shop/night").id == second != first
        table = pq.read_table(planted / "example.parquet")
        args = job.arguments(["--release", "s3://shop/night", "--examples", "any", "--clock", "evidence", "--release-id", first])
        joined = job.joined_with(args, table)
        assert [release.id for release in joined.releases] == [first]
        assert joined.coverage("item", "item.facts") > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--as-of", "2026-11-09T00:00:00+00:00"], "say --clock evidence"),
        (["--as-of", "2026-11-09", "--clock", "evidence"], "invalid instant value"),
        (["--release-id", "2026-11-09-0123"], "--release-id chooses one release: say --clock evidence"),
        (["--release-id", "a", "--as-of", "2026-11-09T00:00:00+00:00", "--clock", "evidence"], "say one of them"),
        (["--release-id", "../elsewhere", "--clock", "evidence"], "is no release's name"),
        (["--release-id", "", "--clock", "evidence"], "is no release's name"),
    ],
)
def test_a_choice_of_release_that_cannot_be_meant_is_named(
    job: ModuleType, planted: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    with pytest.raises(SystemExit):
        _run(job, planted, *arguments)
    assert words in capsys.readouterr().err


def test_before_anything_was_served_there_is_nothing_to_study(job: ModuleType, planted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(job, planted, "--clock", "evidence", "--as-of", "2026-01-01T00:00:00+00:00") == 1
    assert "served nothing at 2026-01-01" in capsys.readouterr().err


def test_the_job_imports_nothing_of_kar_but_the_release_room() -> None:
    tree = ast.parse(JOB.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name.split(".")[0] == "kar"} == {"kar.release"}
    outside = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    assert outside == {"kar", "numpy", "pyarrow", "torch"}


def test_the_help_explains_clocks_and_which_split_may_be_used(job: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        job.main(["--help"])
    shown = capsys.readouterr().out
    for words in ("Which split may be used", "--clock", "time, so nothing is served that was not there then", "--seed"):
        assert words in shown


def test_auc_counts_ties_half_and_weights_as_repeats(job: ModuleType) -> None:
    label, score = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.1, 0.5, 0.5, 0.7])
    pairs = [(p > n) + 0.5 * (p == n) for p in score[label == 1] for n in score[label == 0]]
    assert job.auc(label, score) == pytest.approx(np.mean(pairs))
    weight = np.array([2, 0, 1, 3, 1])
    assert job.auc(label, score, weight) == pytest.approx(job.auc(np.repeat(label, weight), np.repeat(score, weight)))


def test_the_interval_of_equal_models_is_zero_wide_and_of_a_better_one_above_zero(job: ModuleType) -> None:
    draw = np.random.default_rng(0)
    label = draw.integers(0, 2, 600)
    users = np.repeat(np.arange(60), 10)
    blind, seeing = draw.random(600), np.clip(label * 0.4 + draw.random(600) * 0.6, 0, 1)
    assert job.interval(label, blind, blind, users, seed=1, resamples=50)["AUC"] == (0.0, 0.0)
    low, high = job.interval(label, blind, seeing, users, seed=1, resamples=50)["AUC"]
    assert 0.1 < low < high < 1.0


def test_ids_unseen_in_training_share_the_unknown_place(job: ModuleType) -> None:
    ids = pa.chunked_array([["b", "a"], ["c", "a", "b"]])
    rows, count = job.numbered(ids, np.array([True, False, False, False, True]))
    assert rows.tolist() == [1, 0, 0, 0, 1]
    assert count == 2


def test_means_over_the_history_come_by_the_same_join(job: ModuleType, tmp_path: Path) -> None:
    sides = world.sides()
    liked = replace(
        world.view_rows("user.liked_facts", world.USERS, missing={1}, newest=world.day(2), offset=500.0),
        knowledge=np.zeros((world.USERS, 0), np.float32),
        pooled_from=Pooled("item.facts", "liked", 30),
    )
    publish(tmp_path, (replace(sides[0], views=(*sides[0].views, liked)), sides[1]), world.facts(published_at=world.day(3)))
    joined = kar.release.join(tmp_path, world.examples([world.day(4), world.day(2)], [106, 106], ["i03", "i03"]), clock="evidence")
    columns, masks = job.knowledge_columns(joined, "user")
    assert columns.shape == (2, 2 * (world.A + 1))  # preference and the liked mean, each with its mask
    assert columns[:, world.A + 1].tolist() == [502.0, 0.5]  # the second example is no newer than what was pooled
    assert masks["user.liked_facts"].tolist() == [False, True]
