"""The peers' own training on the same examples: deepctr-torch's `model.fit`, and FuxiCTR's layers under its own training step.

Both see what kar's thin base sees, with the same widths and without regularisation. Where they differ it is to their favour: DIN sees no
ratings, and FuxiCTR's batches are cut from resident tensors, its loader left out. FuxiCTR's package holds no FiBiNET; it is put together
here from its layers, as its paper has it.
"""

from __future__ import annotations

import collections
import sys
import tempfile
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.train_systems import ATTENTION, EMBEDDING, MLP, columns

if TYPE_CHECKING:
    from benchmarks.train_systems import Advance, Task

_FIT_ROWS = 40_000
"""Rows of one call of `fit`: a second or two, so that what it does once a call counts little."""


def start(task: Task) -> Advance:
    """Raises ImportError where the package is missing."""
    held = columns(Path(task.folder))
    return _deepctr(task, held) if task.system == "deepctr-torch" else _fuxictr(task, held)


def _sizes(held: dict[str, Any]) -> dict[str, int]:
    """Codes of each column, 0 included; a column of the history may hold what its target column does not."""
    of_history = {name: int(held[f"history_{name}"].max()) + 1 for name in ("item", "genre", "rating")}
    return {name: max(size, int(held[name].max()) + 1 if name in held else 0) for name, size in of_history.items()}


def _deepctr(task: Task, held: dict[str, Any]) -> Advance:
    models, inputs = _import_deepctr()
    sizes, length = _sizes(held), held["history_item"].shape[1]
    features = [inputs.SparseFeat(name, sizes[name], EMBEDDING) for name in ("item", "genre")]
    given = {name: held[name] for name in ("item", "genre")}
    is_din = task.backbone == "din"
    for name in ("item", "genre") if is_din else ("item", "genre", "rating"):
        # FiBiNET counts its fields by its tables: a shared one would break it
        sparse = inputs.SparseFeat(f"hist_{name}", sizes[name], EMBEDDING, embedding_name=name if is_din else f"hist_{name}")
        features.append(inputs.VarLenSparseFeat(sparse, length, "mean", length_name="length"))
        given[f"hist_{name}"] = held[f"history_{name}"]
    given["length"] = (held["history_item"] > 0).sum(axis=1)
    plain = {"dnn_hidden_units": MLP, "l2_reg_embedding": 0, "l2_reg_dnn": 0}
    if is_din:
        model = models.DIN(features, ["item", "genre"], att_hidden_size=ATTENTION, att_activation="relu", **plain)
    else:
        model = models.FiBiNET(features, features, bilinear_type="all", reduction_ratio=2, l2_reg_linear=0, **plain)
    model.compile("adam", "binary_crossentropy", metrics=[])
    draw = np.random.default_rng(1)

    def advance() -> int:
        rows = draw.integers(0, len(held["label"]), min(_FIT_ROWS, len(held["label"])))
        model.fit({name: of[rows] for name, of in given.items()}, held["label"][rows], batch_size=task.batch, epochs=1, verbose=0)
        return len(rows)

    return advance


def _import_deepctr() -> tuple[Any, Any]:
    import kar.model.deepctr  # noqa: F401  # keeps deepctr-torch from asking the package index

    stand_in = types.ModuleType("deepctr_torch.utils")
    stand_in.check_version = lambda version: None  # type: ignore[attr-defined]
    sys.modules.setdefault("deepctr_torch.utils", stand_in)
    from deepctr_torch import inputs, models

    return models, inputs


def _fuxictr(task: Task, held: dict[str, Any]) -> Advance:
    model = _fuxictr_model(task, _sizes(held), held["history_item"].shape[1])
    given = {name: torch.from_numpy(np.asarray(of)).long() for name, of in held.items() if name != "label"}
    given["label"] = torch.from_numpy(held["label"])[:, None]
    draw = torch.Generator().manual_seed(1)
    model._max_gradient_norm = 10.0  # as its `fit` sets it
    model.train()

    def advance() -> int:
        rows = torch.randint(len(given["label"]), (task.batch,), generator=draw)
        model.train_step({name: of[rows] for name, of in given.items()}).item()  # its `train_epoch` takes the loss of each step
        return task.batch

    return advance


def _fuxictr_model(task: Task, sizes: dict[str, int], length: int) -> Any:
    _stand_in_for_ray()
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch import layers
    from fuxictr.pytorch.models import BaseModel

    is_din = task.backbone == "din"
    features = FeatureMap("drawn", tempfile.gettempdir())
    features.labels = ["label"]
    made: dict[str, dict[str, Any]] = {}
    for name in ("item", "genre"):
        made[name] = {"type": "categorical", "source": "", "vocab_size": sizes[name], "padding_idx": 0}
    for name in ("item", "genre") if is_din else ("item", "genre", "rating"):
        pooled = {"share_embedding": name} if is_din else {"feature_encoder": "layers.MaskedAveragePooling()"}
        made[f"history_{name}"] = {
            "type": "sequence",
            "source": "",
            "vocab_size": sizes[name],
            "padding_idx": 0,
            "max_len": length,
            **pooled,
        }
    features.features = collections.OrderedDict(made)
    features.num_fields = features.get_num_fields()
    count = features.num_fields

    class Assembled(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(features, gpu=-1, verbose=0, model_root=tempfile.gettempdir(), metrics=["AUC"])
            self.embedding = layers.FeatureEmbeddingDict(features, EMBEDDING)
            if is_din:
                self.attention = layers.DIN_Attention(2 * EMBEDDING, attention_units=list(ATTENTION))
                width = 4 * EMBEDDING
            else:
                self.senet = layers.SqueezeExcitation(count, 2)
                self.plain, self.weighted = (layers.BilinearInteractionV2(count, EMBEDDING, "field_all") for _ in range(2))
                width = count * (count - 1) * EMBEDDING
            self.mlp = layers.MLP_Block(width, hidden_units=list(MLP), output_dim=1)
            self.compile("adam", "binary_crossentropy", 1e-3)
            self.reset_parameters()

        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            x = self.embedding({name: inputs[name] for name in made})
            if is_din:
                target = torch.cat([x["item"], x["genre"]], dim=-1)
                history = torch.cat([x["history_item"], x["history_genre"]], dim=-1)
                seen = torch.cat([target, self.attention(target, history, inputs["history_item"] > 0)], dim=-1)
            else:
                fields = torch.stack([x[name] for name in made], dim=1)
                seen = torch.cat([self.plain(fields), self.weighted(self.senet(fields))], dim=1).flatten(1)
            return {"y_pred": self.mlp(seen).sigmoid()}

    return Assembled()


def _stand_in_for_ray() -> None:
    """FuxiCTR imports ray (600 MB) for its preprocessing, which is not used here."""
    for name in ("ray", "ray.data", "ray.data.datasource", "ray.data.datasource.filename_provider"):
        stand_in = types.ModuleType(name)
        for needed in ("FilenameProvider", "SaveMode", "TaskPoolStrategy"):
            setattr(stand_in, needed, object)
        sys.modules.setdefault(name, stand_in)
