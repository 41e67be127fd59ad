"""A checkpoint gives back what was saved, or says what is wrong with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kar.errors import ModelError
from kar.model import arms, checkpoint
from kar.model.checkpoint import Origin
from kar.model.forms import FORMS
from kar.model.ranker import Ranker, build
from kar.settings import AdaptorSettings


@pytest.fixture
def origin() -> Origin:
    return Origin(
        base="same_evidence",
        backbone="din",
        arm="knowledge",
        seed=3,
        encoder_id="hash-16:test",
        views={"user": ["user.preference"], "item": ["item.facts"]},
        settings={"epochs": 3},
        valid_auc=0.75,
        field_sizes={"item_id": 4},
    )


@pytest.fixture
def ranker(world: Any, settings: AdaptorSettings) -> Ranker:
    return make(world, settings)


def make(world: Any, settings: AdaptorSettings) -> Ranker:
    """DIN over the small world, its learned defaults and gates no longer zero."""
    prepared, data = arms.prepare(world.knowledge_vector, world.example, settings), world.load(settings)
    ranker = build("din", data, prepared.kinds("knowledge", data, 1), prepared.width, settings, seed=3)
    assert ranker.adaptor is not None
    draw = torch.Generator().manual_seed(0)
    for parameter in [*ranker.adaptor.default.values(), *ranker.adaptor.residual.values()]:
        torch.nn.init.normal_(parameter, generator=draw)
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


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("is_gated", [False, True])
def test_every_form_comes_back_and_gives_what_entered_the_backbone(
    world: Any, settings_with: Callable[..., AdaptorSettings], origin: Origin, tmp_path: Path, form: str, is_gated: bool
) -> None:
    ranker = make(world, settings_with(form=form, residual_gate=is_gated))
    checkpoint.save(tmp_path, ranker, origin)
    loaded = checkpoint.load(tmp_path)
    assert loaded.adaptor.name == form
    assert json.loads((tmp_path / "checkpoint.json").read_text())["adaptor"]["form"] == form
    data = world.load(settings_with())
    kinds = arms.prepare(world.knowledge_vector, world.example, settings_with()).kinds("knowledge", data, 1)
    batch = data.batch(torch.arange(world.example.num_rows), kinds)
    entered = ranker.adapt(batch).target_BCD.detach().numpy()
    for number, kind in enumerate(kinds):
        table = np.concatenate([loaded.missing(kind.view)[None], loaded.adapt(kind.view, kind.vectors_RT[1:].numpy())])
        np.testing.assert_allclose(table[kind.row_E.numpy()], entered[:, number], atol=1e-6)
    again = Ranker(checkpoint.load_backbone(tmp_path), loaded.adaptor)
    torch.testing.assert_close(again(batch), ranker(batch))


def test_a_form_that_this_version_does_not_know_is_a_named_error(ranker: Ranker, origin: Origin, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ranker, origin)
    document = json.loads((tmp_path / "checkpoint.json").read_text())
    document["adaptor"]["form"] = "transformer"
    (tmp_path / "checkpoint.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="no adaptor of the form 'transformer'; the forms: experts, one_gate"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_trained_in_bfloat16_adapts_in_it(ranker: Ranker, origin: Origin, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    found = {}
    for precision in ("float32", "bfloat16"):
        checkpoint.save(tmp_path / precision, ranker, replace(origin, settings={"precision": precision}))
        found[precision] = checkpoint.load(tmp_path / precision).adapt("item.facts", vectors)
    assert not np.array_equal(found["float32"], found["bfloat16"])
    np.testing.assert_allclose(found["bfloat16"], found["float32"], atol=0.02)


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


@pytest.mark.slow
def test_a_night_that_only_adapts_does_not_wait_for_the_rankers_libraries() -> None:
    look = (
        "import sys, kar.stages.features, kar.model.checkpoint; print({'deepctr_torch', 'sklearn', 'scipy'} & set(sys.modules) or 'none')"
    )
    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "none"
