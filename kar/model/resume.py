"""A training's state on disk after every epoch, so that a killed run goes on where it was and ends as an unbroken one would.

State is one safetensors file per training, its JSON part in the file's own metadata, put in place by a rename: there is a whole epoch
or the one before. It holds the weights, the optimiser, both random generators (torch's: dropout; the training's own: shuffling and id
dropout), the epochs so far, and the best weights with their logits. A finished training keeps the best weights and the logits alone.

The files lie outside the folder that the runner writes (`Inputs.work`), which a killed run loses. Their folder is named after all that
decides a training besides its settings: the tables, the code of this package, torch. Their name holds the training and its settings.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kar import log
from kar.model.knowledge import Float32
from kar.model.ranker import Ranker
from kar.settings import AdaptorSettings
from kar.store import file_sha, json_sha

_FORMAT = "1"
_OF_THE_RUN = ("backbones", "bases", "arms", "seeds", "published_backbone", "published_base", "cold_count", "resamples", "trials")
"""Settings that say which trainings there are and how they are judged, and change none of them."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training examples; see the table epoch."""

    train_loss: float
    valid_auc: float
    valid_logloss: float
    seconds: float


@dataclass
class State:
    """All that the rest of a training depends on, as of the end of an epoch.

    Args:
        draw: shuffles, and draws the rows whose ids are hidden.
        chosen: the epoch with the best AUC on valid, 0-based; −1: none yet.
        best: its weights; `valid_logit`: its logits.
        test_logit: of the best weights; None: the training is not finished.
    """

    ranker: Ranker
    optimizer: torch.optim.Optimizer
    draw: torch.Generator
    epochs: list[Epoch] = field(default_factory=list)
    chosen: int = -1
    best: dict[str, Tensor] = field(default_factory=dict)
    valid_logit: Float32 = field(default_factory=lambda: np.empty(0, np.float32))
    test_logit: Float32 | None = None

    def add(self, epoch: Epoch, valid_logit: Float32) -> None:
        """Take an epoch in; keep its weights if it is the best so far, the first of equals."""
        self.epochs.append(epoch)
        if self.chosen < 0 or epoch.valid_auc > self.epochs[self.chosen].valid_auc:
            self.chosen, self.valid_logit = len(self.epochs) - 1, valid_logit
            self.best = copy.deepcopy(self.ranker.state_dict())

    def is_over(self, settings: AdaptorSettings) -> bool:
        """Whether all epochs are done, or `patience` of them went by without a better one."""
        done = len(self.epochs)
        return done >= settings.epochs or (done > 0 and done - 1 - self.chosen >= settings.patience)

    def save(self, path: Path) -> None:
        """Write the state in the place of the one before. The folder is made if it is not there."""
        tensors = {f"best.{name}": value for name, value in self.best.items()}
        tensors["valid_logit"] = torch.from_numpy(self.valid_logit)
        groups: list[dict[str, Any]] = []
        if self.test_logit is not None:
            tensors["test_logit"] = torch.from_numpy(self.test_logit)
        else:
            tensors |= {f"now.{name}": value for name, value in self.ranker.state_dict().items()}
            tensors |= {f"random.{name}": value for name, value in self._random().items()}
            optimizer = self.optimizer.state_dict()
            groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer["param_groups"]]
            for number, values in optimizer["state"].items():
                tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in values.items()}
        document = {
            "format": _FORMAT,
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "chosen": self.chosen,
            "is_finished": self.test_logit is not None,
            "optimizer": groups,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial, {"kar": json.dumps(document)})
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)

    def restore(self, path: Path) -> bool:
        """Go on from a saved state; False, and nothing is changed, if there is none that can be read."""
        try:
            with safe_open(path, "pt") as file:
                document = json.loads(file.metadata()["kar"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            if document["format"] != _FORMAT:
                raise ValueError(f"format {document['format']}")
        except FileNotFoundError:
            return False
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            log.warning(f"{path} cannot be read as the state of a training, which starts anew", error=str(error))
            return False
        self.epochs, self.chosen = [Epoch(**epoch) for epoch in document["epochs"]], document["chosen"]
        self.best, self.valid_logit = _below(tensors, "best."), tensors["valid_logit"].numpy()
        if document["is_finished"]:
            self.test_logit = tensors["test_logit"].numpy()
            return True
        self.ranker.load_state_dict(_below(tensors, "now."))
        self._restore_optimizer(document["optimizer"], _below(tensors, "optimizer."))
        self._restore_random(_below(tensors, "random."))
        return True

    def _restore_optimizer(self, groups: list[dict[str, Any]], values: dict[str, Tensor]) -> None:
        fresh = self.optimizer.state_dict()
        for group, saved in zip(fresh["param_groups"], groups, strict=True):
            group |= {name: tuple(value) if isinstance(group.get(name), tuple) else value for name, value in saved.items()}
        per_parameter: dict[int, dict[str, Tensor]] = {}
        for name, value in values.items():
            number, _, what = name.partition(".")
            per_parameter.setdefault(int(number), {})[what] = value
        self.optimizer.load_state_dict({"state": per_parameter, "param_groups": fresh["param_groups"]})

    def _random(self) -> dict[str, Tensor]:
        found = {"torch": torch.get_rng_state(), "draw": self.draw.get_state()}
        if torch.cuda.is_available():
            found["cuda"] = torch.cuda.get_rng_state()
        return found

    def _restore_random(self, saved: dict[str, Tensor]) -> None:
        torch.set_rng_state(saved["torch"])
        self.draw.set_state(saved["draw"])
        if "cuda" in saved and torch.cuda.is_available():
            torch.cuda.set_rng_state(saved["cuda"])


@dataclass(frozen=True)
class Work:
    """Where the trainings of a run keep their states."""

    folder: Path

    @classmethod
    def of(cls, root: Path, tables: Mapping[str, Path], facts: Mapping[str, object]) -> Work:
        """The folder for these tables; folders of others, left by runs that will not go on, are removed.

        Args:
            root: of the partition, which one process at a time makes.
            tables: the files that trainings read.
            facts: what else decides a training and is in no setting of the adaptor.
        """
        code = {path.name: file_sha(path) for path in sorted(Path(__file__).parent.rglob("*.py"))}
        digests = {name: file_sha(path) for name, path in tables.items()}
        folder = root / json_sha({"tables": digests, "code": code, "torch": torch.__version__, "facts": dict(facts)})[:16]
        for other in root.iterdir() if root.is_dir() else []:
            if other != folder:
                shutil.rmtree(other)
        return cls(folder)

    def file(self, what: str, settings: AdaptorSettings) -> Path:
        """The state of one training.

        Args:
            what: names it.
            settings: that it is trained with.
        """
        recipe = {name: value for name, value in settings.recipe().items() if name not in _OF_THE_RUN}
        return self.folder / f"{re.sub(r'[^a-z0-9_]+', '-', what.lower())}-{json_sha([what, recipe])[:12]}.safetensors"


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
