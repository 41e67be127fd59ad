"""A trained adaptor and its backbone on disk: two safetensors files and one JSON file that binds them. Never pickle.

adaptor.safetensors   the adaptor's weights and learned defaults
model.safetensors     the backbone's weights
checkpoint.json       views, widths, encoder, arm, seed, settings, and the digests of both files; its own digest is the checkpoint's
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from kar.errors import ModelError
from kar.model import forms
from kar.model.adaptor import Form
from kar.model.knowledge import Float32
from kar.model.scoring import score
from kar.store import file_sha, json_sha

if TYPE_CHECKING:
    from kar.model.backbones import Backbone
    from kar.model.ranker import Ranker

_ADAPTOR, _MODEL, _JSON = "adaptor.safetensors", "model.safetensors", "checkpoint.json"
_FORMAT = 3


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint comes from.

    Args:
        base, backbone, arm, seed: the training.
        encoder_id: of the vectors it was trained on; empty: it saw none.
        views: side → views, in the arm's order.
        settings: the adaptor settings' recipe.
        valid_auc: of the chosen epoch.
        field_sizes: the embedding table's blocks, field → codes.
    """

    base: str
    backbone: str
    arm: str
    seed: int
    encoder_id: str
    views: dict[str, list[str]]
    settings: dict[str, Any]
    valid_auc: float
    field_sizes: dict[str, int]


@dataclass
class Checkpoint:
    """A loaded checkpoint: what adapts vectors for a release. The backbone stays on disk, see `load_backbone`.

    Args:
        origin: where it comes from.
        encoder_id: of the vectors it takes; empty: it was trained without any.
        views: side ("user", "item") → views.
        width: of the knowledge vectors it takes.
        adapted_width: of what it gives.
        sha: digest over both weight files and everything in checkpoint.json.
    """

    origin: Origin
    encoder_id: str
    views: dict[str, list[str]]
    width: int
    adapted_width: int
    sha: str
    adaptor: Form = field(repr=False)

    def adapt(self, view: str, vectors_NT: Float32) -> Float32:
        """Adapted vectors [N, A] as they entered the backbone, float32; computed in the precision of the training, see `scoring`.

        Raises:
            ModelError: an unknown view, another width, or a vector that is not finite.
        """
        return score(self.adaptor, view, np.asarray(vectors_NT, dtype=np.float32), self.origin.settings.get("precision", "float32"))

    def missing(self, view: str) -> Float32:
        """The learned default [A] of a subject without knowledge. Raises ModelError for an unknown view."""
        if view not in self.adaptor.kinds:
            raise ModelError(f"the checkpoint has no view {view!r}; it has {', '.join(self.adaptor.kinds)}")
        return self.adaptor.enter(view, self.adaptor.missing(view)).detach().numpy().copy()


def save(folder: Path, ranker: Ranker, origin: Origin) -> str:
    """Write a checkpoint; the JSON last. Returns its digest.

    Args:
        folder: made if it is not there.
        ranker: with an adaptor.
    """
    assert ranker.adaptor is not None
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in ((_ADAPTOR, ranker.adaptor), (_MODEL, ranker.backbone)):
        save_file({key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}, folder / name)
    document = {
        "format": _FORMAT,
        "origin": asdict(origin),
        "adaptor": {"form": ranker.adaptor.name, **ranker.adaptor.arguments()},
        "shape": asdict(ranker.backbone.shape),
        "files": {name: file_sha(folder / name) for name in (_ADAPTOR, _MODEL)},
    }
    (folder / _JSON).write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return json_sha(document)


def load(folder: Path) -> Checkpoint:
    """Load a checkpoint for adapting vectors, on the CPU.

    Raises:
        ModelError: a file is missing, is not what checkpoint.json says, or holds weights of another width.
    """
    document = _document(folder)
    arguments = dict(document["adaptor"])
    try:
        adaptor = forms.empty(arguments.pop("form"), arguments)
        adaptor.load_state_dict(load_file(folder / _ADAPTOR))
    except (RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise _unfit(folder / _ADAPTOR, error) from error
    origin = Origin(**document["origin"])
    return Checkpoint(origin, origin.encoder_id, origin.views, adaptor.width, adaptor.adapted_width, json_sha(document), adaptor.eval())


def load_backbone(folder: Path) -> Backbone:
    """Load a checkpoint's backbone, on the CPU. Raises ModelError as `load` does."""
    from kar.model.backbones import BACKBONES, Shape  # bring scikit-learn and SciPy, which a night that only adapts must not wait for

    document = _document(folder)
    try:
        backbone = BACKBONES[document["origin"]["backbone"]](Shape(**{**document["shape"], "mlp": tuple(document["shape"]["mlp"])}))
        backbone.load_state_dict(load_file(folder / _MODEL))
    except (RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise _unfit(folder / _MODEL, error) from error
    return backbone.eval()


def _document(folder: Path) -> dict[str, Any]:
    """checkpoint.json, after holding both weight files against the digests in it."""
    try:
        document: dict[str, Any] = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        if document["format"] != _FORMAT:
            raise ModelError(f"{folder} is a checkpoint of format {document['format']}, this version reads {_FORMAT}", "train again")
        for name, sha in document["files"].items():
            if file_sha(folder / name) != sha:
                raise ModelError(f"{folder / name} is not the file that checkpoint.json names", "run: kar run adaptor")
    except FileNotFoundError as error:
        raise ModelError(f"{folder} holds no whole checkpoint: {Path(error.filename).name} is missing", "run: kar run adaptor") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / _JSON} cannot be read as a checkpoint: {error}", "run: kar run adaptor") from error
    return document


def _unfit(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path} does not fit its checkpoint.json: {str(error).splitlines()[0]}", "run: kar run adaptor")
