"""A checkpoint gives back what was saved, or says what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kar.errors import ModelError
from kar.model import arms, checkpoint
from kar.model.checkpoint import Origin
from kar.model.ranker import Ranker, build
from kar.settings import AdaptorSettings


@pytest.fixture
def origin() -> Origin:
    return Origin(
        "din", "knowledge", 3, "hash-16:test", {"user": ["user.preference"], "item": ["item.facts"]}, {"epochs": 3}, 0.75, {"item_id": 4}
    )


@pytest.fixture
def ranker(world: Any, settings: AdaptorSettings) -> Ranker:
    prepared = arms.prepare(world.knowledge_vector, world.example, settings)
    ranker = build("din", world.load(settings), ["user.preference", "item.facts"], prepared.width, settings, seed=3)
    assert ranker.adaptor is not None
    torch.nn.init.normal_(ranker.adaptor.default["item:facts"], generator=torch.Generator().manual_seed(0))
    return ranker.eval()


def test_a_checkpoint_adapts_as_the_trained_adaptor_did(ranker: Ranker, origin: Origin, tmp_path: Path) -> None:
    sha = checkpoint.save(tmp_path / "din", ranker, origin)
    loaded = checkpoint.load(tmp_path / "din")
    vectors = np.random.default_rng(0).normal(size=(40_000, 16)).astype(np.float32)  # more than one chunk
    assert ranker.adaptor is not None
    expected = ranker.adaptor("item.facts", torch.from_numpy(vectors)).detach().numpy()
    np.testing.assert_allclose(loaded.adapt("item.facts", vectors), expected, atol=1e-6)
    np.testing.assert_array_equal(loaded.missing("item.facts"), ranker.adaptor.default["item:facts"].detach().numpy())
    assert (loaded.sha, loaded.width, loaded.adapted_width) == (sha, 16, 8)
    assert (loaded.encoder_id, loaded.views, loaded.origin) == (origin.encoder_id, origin.views, origin)
    assert loaded.adapt("item.facts", vectors[:0]).shape == (0, 8)


def test_the_folder_holds_safetensors_and_json_only(ranker: Ranker, origin: Origin, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ranker, origin)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adaptor.safetensors", "checkpoint.json", "model.safetensors"]
    with (tmp_path / "adaptor.safetensors").open("rb") as stream:
        assert stream.read(9)[8:] == b"{"  # a safetensors header, no pickle


def test_the_digest_binds_weights_and_description(ranker: Ranker, origin: Origin, tmp_path: Path) -> None:
    first = checkpoint.save(tmp_path / "a", ranker, origin)
    assert checkpoint.save(tmp_path / "b", ranker, origin) == first
    assert checkpoint.save(tmp_path / "c", ranker, replace(origin, seed=4)) != first
    with torch.no_grad():
        next(ranker.backbone.parameters()).add_(1.0)
    assert checkpoint.save(tmp_path / "d", ranker, origin) != first


def test_another_width_or_view_and_vectors_that_are_not_finite_are_refused(ranker: Ranker, origin: Origin, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ranker, origin)
    loaded = checkpoint.load(tmp_path)
    with pytest.raises(ModelError, match=r"the adaptor takes \[N, 16\]"):
        loaded.adapt("item.facts", np.zeros((2, 15), np.float32))
    with pytest.raises(ModelError, match=r"no kind 'item\.tags'"):
        loaded.adapt("item.tags", np.zeros((2, 16), np.float32))
    with pytest.raises(ModelError, match=r"no view 'item\.tags'"):
        loaded.missing("item.tags")
    with pytest.raises(ModelError, match="vector 1 is not finite"):
        loaded.adapt("item.facts", np.array([[0.0] * 16, [np.nan] * 16], np.float32))


@pytest.mark.parametrize("name", ["adaptor.safetensors", "model.safetensors", "checkpoint.json"])
def test_a_missing_or_changed_file_is_a_named_error(ranker: Ranker, origin: Origin, tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path, ranker, origin)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:-9])
    with pytest.raises(ModelError, match=r"is not the file that checkpoint\.json names|cannot be read as a checkpoint"):
        checkpoint.load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing".replace(".", r"\.")):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(("section", "key"), [("adaptor", "width"), ("shape", "code_count")])
def test_a_description_of_other_widths_is_a_named_error(ranker: Ranker, origin: Origin, tmp_path: Path, section: str, key: str) -> None:
    checkpoint.save(tmp_path, ranker, origin)
    document = json.loads((tmp_path / "checkpoint.json").read_text())
    document[section][key] += 1
    (tmp_path / "checkpoint.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match=r"does not fit its checkpoint\.json"):
        (checkpoint.load if section == "adaptor" else checkpoint.load_backbone)(tmp_path)
