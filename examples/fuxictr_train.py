"""FuxiCTR's DIN and FiBiNET over an exported release: knowledge vectors as features of type "embedding", the history's items with theirs.

python examples/fuxictr_train.py $KAR_HOME/movielens-100k/published example.parquet

Needs `fuxictr` in an environment of its own. Its package holds DIN (model_zoo) and FiBiNET's layers; the latter are put together here as in its
paper. Ids are numbered on the train examples; a history is the user's liked items before the example.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

import kar.release
from kar.release.export import export

for name in ("ray", "ray.data", "ray.data.datasource", "ray.data.datasource.filename_provider"):  # 600 MB, for a loader that is not used
    stand_in = types.ModuleType(name)
    for needed in ("FilenameProvider", "SaveMode", "TaskPoolStrategy"):
        setattr(stand_in, needed, object)
    sys.modules.setdefault(name, stand_in)
from fuxictr.features import FeatureMap  # noqa: E402
from fuxictr.pytorch import layers  # noqa: E402
from fuxictr.pytorch.models import BaseModel  # noqa: E402
from model_zoo.LongCTR.DIN.DIN import DIN  # noqa: E402

DIM, LENGTH, BATCH, EPOCHS = 8, 10, 512, 4
PLAIN = {"gpu": -1, "verbose": 0, "metrics": ["AUC"], "optimizer": "adam", "loss": "binary_crossentropy"}


class FiBiNET(BaseModel):  # type: ignore[misc]
    def __init__(self, features: FeatureMap, model_root: str) -> None:
        super().__init__(features, "FiBiNET", model_root=model_root, **PLAIN)
        count = features.get_num_fields()
        self.embedding = layers.FeatureEmbedding(features, DIM)
        self.senet = layers.SqueezeExcitation(count, 2)
        self.plain, self.weighted = (layers.BilinearInteractionV2(count, DIM, "field_all") for _ in range(2))
        self.mlp = layers.MLP_Block(count * (count - 1) * DIM, hidden_units=[32], output_dim=1, output_activation="sigmoid")
        self.compile("adam", "binary_crossentropy", 5e-3)
        self.reset_parameters()

    def forward(self, inputs: Any) -> dict[str, torch.Tensor]:
        fields = self.embedding(self.get_inputs(inputs))
        return {"y_pred": self.mlp(torch.cat([self.plain(fields), self.weighted(self.senet(fields))], dim=1).flatten(1))}


def vectors(folder: Path, side: str) -> tuple[dict[Any, int], np.ndarray]:
    """id → row, and the side's views beside each other: float32 [rows + 1, W]; the last row, zeros, is everybody else."""
    table = pq.read_table(folder / f"{side}_knowledge")
    columns = [table.column(name).combine_chunks() for name in table.column_names if name.endswith("adapted_vector")]
    matrix = np.hstack([column.flatten().to_numpy().reshape(len(column), -1) for column in columns])
    return {id_: row for row, id_ in enumerate(table.column(f"{side}_id").to_pylist())}, np.vstack([matrix, 0 * matrix[:1]])


def histories(rows: list[dict[str, Any]], item_row: dict[Any, int], nothing: int) -> np.ndarray:
    """int64 [N, LENGTH]: rows of the items that the user liked before, newest last; `nothing` where there are fewer."""
    found = np.full((len(rows), LENGTH), nothing)
    liked: dict[Any, list[tuple[Any, int]]] = defaultdict(list)
    for place in sorted(range(len(rows)), key=lambda n: rows[n]["event_at"]):
        row = rows[place]
        newest = [item for at, item in liked[row["user_id"]] if at < row["event_at"]][-LENGTH:]
        found[place, LENGTH - len(newest) :] = newest
        if row["label"]:
            liked[row["user_id"]].append((row["event_at"], item_row.get(row["item_id"], nothing)))
    return found


def main() -> None:
    logging.disable()
    torch.manual_seed(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        release = kar.release.open(sys.argv[1])
        exported = export(release, Path(folder) / "plain").path
        (user_row, user_VW), (item_row, item_VW) = vectors(exported, "user"), vectors(exported, "item")
        rows = pq.read_table(sys.argv[2]).to_pylist()
        user, item = (
            np.array([places.get(row[f"{side}_id"], len(places)) for row in rows])
            for side, places in (("user", user_row), ("item", item_row))
        )
        history, split = histories(rows, item_row, len(item_row)), np.array([row["split"] for row in rows])
        label = torch.tensor([float(row["label"]) for row in rows])
        made: dict[str, dict[str, Any]] = {
            "user_knowledge": {"type": "embedding", "source": "user", "pretrain_dim": user_VW.shape[1]},
            "item_id": {"type": "categorical", "source": "item", "vocab_size": len(item_VW)},
            "item_knowledge": {"type": "embedding", "source": "item", "pretrain_dim": item_VW.shape[1]},
        }

        def batches(part: str, backbone: str) -> list[Any]:
            """All batches of a split; of DIN as its loader gives them: fields, items with the target last, and the history's mask."""
            found: list[Any] = []
            for at in np.array_split(np.flatnonzero(split == part), max(1, (split == part).sum() // BATCH)):
                fields = {"user_knowledge": torch.from_numpy(user_VW[user[at]]), "label": label[at]}
                items = item[at] if backbone == "FiBiNET" else np.hstack([history[at], item[at][:, None]]).ravel()
                of_items = {"item_id": torch.from_numpy(items), "item_knowledge": torch.from_numpy(item_VW[items])}
                mask = torch.from_numpy(history[at] < len(item_row)).float()
                found.append({**fields, **of_items} if backbone == "FiBiNET" else (fields, of_items, mask))
            return found

        (Path(folder) / "kar").mkdir()  # where FuxiCTR keeps its best epoch
        for backbone in ("FiBiNET", "DIN"):
            features = FeatureMap("kar", folder)
            features.features.update(made)
            features.labels, features.default_emb_dim = ["label"], DIM
            root = {"model_root": f"{folder}/"}
            settings = {"embedding_dim": DIM, "dnn_hidden_units": [32], "attention_hidden_units": [16], "learning_rate": 5e-3}
            model = FiBiNET(features, **root) if backbone == "FiBiNET" else DIN(features, **settings, **root, **PLAIN)
            model.fit(batches("train", backbone), epochs=EPOCHS, validation_data=batches("valid", backbone))
            auc = model.evaluate(batches("test", backbone))["AUC"]
            print(f"{backbone:<8} release {release.id}, {int((split == 'test').sum()):,} test examples, AUC {auc:.4f}")


if __name__ == "__main__":
    main()
