"""The stage's tables as resident tensors (`kar.model.batches.TrainingData`), for one base.

In two steps, so that tables larger than memory can be read in parts of whole users: `fit` goes over all parts once and learns the
vocabularies, `Fitted.gather` makes tensors of one part. `load` is the case of a single part.

Shape suffixes as in `batches`; besides: U distinct users · I distinct items · W windows
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from kar.errors import ModelError
from kar.model.bases import Base
from kar.model.batches import SPLITS, Bool, Side, TrainingData
from kar.model.seen import Seen, ints, rounded, rows
from kar.model.vocabulary import Fields, Int64, Vocabulary, first_values

Int32 = np.ndarray[tuple[int, ...], np.dtype[np.int32]]


def load(
    example: pa.Table,
    example_item: pa.Table,
    sequence: pa.Table,
    user_attribute: pa.Table,
    item_attribute: pa.Table,
    base: Base,
    device: str = "cpu",
) -> TrainingData:
    """Turn the stage's tables into resident tensors. Vocabularies are fitted on the training examples and their histories alone,
    and hold no id of an item that is held out of training.

    Args:
        example, example_item, sequence, user_attribute, item_attribute: as declared in `kar.tables`, in file order.

    Raises:
        ModelError: as `fit`.
    """
    return fit([(example, sequence)], example_item, user_attribute, item_attribute, base).gather(example, sequence, device)


@dataclass(frozen=True)
class Fitted:
    """What all parts share: the vocabularies, and what is known of every user and item.

    Args:
        base: what the ranker sees.
        fields: the embedding table's blocks.
        user_ids, item_ids: distinct ids, ascending.
        code: field → rows of the embedding table, of every user or item.
        ratings: codes of the ratings of a history.
        train_count_I: training examples of each item.
        may_meet_I: whether the item's texts are older than every example.
        counts: split → examples.
    """

    base: Base
    fields: Fields
    user_ids: pa.Array
    item_ids: pa.Array
    code: dict[str, Int32]
    ratings: Vocabulary
    train_count_I: Int64
    may_meet_I: Bool
    counts: dict[str, int]

    def gather(self, example: pa.Table, sequence: pa.Table, device: str = "cpu") -> TrainingData:
        """Tensors of a part: some examples, and at least all events of their users.

        Args:
            example, sequence: rows that `fit` has seen, in file order.
        """
        user_V, item_V = rows(sequence["user_id"], self.user_ids), rows(sequence["item_id"], self.item_ids)
        user_E, item_E = rows(example["user_id"], self.user_ids), rows(example["item_id"], self.item_ids)
        position_E = ints(example["position"])
        own_E = np.searchsorted(user_V, user_E) + position_E
        length_E = np.minimum(position_E, self.base.history_events)
        target = ("item_id", *self.base.item_fields)
        profile = (*(("user_id",) if self.base.has_user_id else ()), *(_profile_name(name) for name in self.base.user_fields))
        rating_V = (self.ratings.codes(rounded(sequence["rating"])) + self.fields.offset("rating")).astype(np.int32)
        to = torch.device(device)
        return TrainingData(
            fields=self.fields,
            target_fields=target,
            profile_fields=profile,
            single_ES=_tensor([*(self.code[n][item_E] for n in target), *(self.code[n][user_E] for n in profile)], to).t().contiguous(),
            start_E=torch.from_numpy(own_E - length_E).to(to),
            length_E=torch.from_numpy(length_E).to(to),
            event_KV=_tensor([*(self.code[n][item_V] for n in target), rating_V], to),
            label_V=torch.from_numpy(ints(sequence["label"]).astype(np.int8)).to(to),
            label_E=torch.from_numpy(ints(example["label"]).astype(np.float32)).to(to),
            user_E=user_E,
            item_E=item_E,
            item_V=item_V,
            user_ids=self.user_ids,
            item_ids=self.item_ids,
            example_id_E=ints(example["example_id"]),
            split_rows={split: np.flatnonzero(pc.equal(example["split"], split).to_numpy()) for split in SPLITS},
            train_count_E=self.train_count_I[item_E],
            may_meet_I=self.may_meet_I,
        )


def fit(
    parts: Iterable[tuple[pa.Table, pa.Table]], example_item: pa.Table, user_attribute: pa.Table, item_attribute: pa.Table, base: Base
) -> Fitted:
    """Learn the vocabularies in one pass, and check what training rests on.

    Args:
        parts: examples and events of some whole users each; the parts, and the rows of each, in file order.

    Raises:
        ModelError: no rows in a split, one class only in train or valid, a label that is not 0 or 1, or an example that is not
            in its user's sequence.
    """
    seen = Seen(base.history_events)
    for example, sequence in parts:
        seen.add(example, sequence)
    seen.check()
    user_ids, item_ids = pa.chunked_array(seen.user_ids).combine_chunks(), seen.item["item_id"].combine_chunks()
    is_held_out_I, may_meet_I = _standing(example_item, item_ids, seen.oldest_at)
    in_training: dict[Side, Int64] = {
        "user": np.flatnonzero(np.concatenate(seen.is_trained_U)),
        "item": np.flatnonzero(seen.item["is_seen"].to_numpy() & ~is_held_out_I),
    }
    codes, sizes = {}, {}
    ids: dict[Side, pa.Array] = {"user": user_ids, "item": item_ids}
    for name, values, owner in _valued_fields(ids, user_attribute, item_attribute, base):
        vocabulary = Vocabulary.of(values.take(pa.array(in_training[owner])))
        codes[name], sizes[name] = vocabulary.codes(values), vocabulary.size
    ratings = Vocabulary.of(pa.array(sorted(seen.ratings), pa.float64()))
    sizes["rating"] = ratings.size
    fields = Fields(sizes)
    return Fitted(
        base=base,
        fields=fields,
        user_ids=user_ids,
        item_ids=item_ids,
        code={name: (codes[name] + fields.offset(name)).astype(np.int32) for name in codes},
        ratings=ratings,
        train_count_I=seen.item["train_count"].to_numpy(),
        may_meet_I=may_meet_I,
        counts={split: seen.labels[split, 0] + seen.labels[split, 1] for split in SPLITS},
    )


def _valued_fields(
    ids: dict[Side, pa.Array], user_attribute: pa.Table, item_attribute: pa.Table, base: Base
) -> list[tuple[str, pa.Array, Side]]:
    """(field, value per distinct subject, side) of the ids and the attributes that the settings name."""
    user_ids, item_ids = ids["user"], ids["item"]
    by_place = item_attribute.sort_by([("item_id", "ascending"), ("place", "ascending")])
    found: list[tuple[str, pa.Array, Side]] = [("item_id", item_ids, "item")]
    for name in base.item_fields:
        found.append((name, first_values(item_ids, by_place["item_id"], by_place["name"], by_place["value"], name), "item"))
    if base.has_user_id:
        found.append(("user_id", user_ids, "user"))
    for name in base.user_fields:
        table = user_attribute
        found.append((_profile_name(name), first_values(user_ids, table["user_id"], table["name"], table["value"], name), "user"))
    for name, values, side in found:
        if values.null_count == len(values):
            raise ModelError(f"no {side} has the attribute {name!r}", f"name an attribute of the tables in adaptor.{side}_fields")
    return found


def _standing(example_item: pa.Table, item_ids: pa.Array, oldest_at: dt.datetime | None) -> tuple[Bool, Bool]:
    """[items] whether each is held out of training, and whether its texts are older than every example."""
    row_I = rows(pa.chunked_array([item_ids]), example_item["item_id"].combine_chunks())
    if (row_I < 0).any():
        raise ModelError("the table example_item lacks an item of the table sequence", "make the examples again: kar run examples")
    found = example_item.take(pa.array(row_I))
    newest_at = found["evidence_newest_at"]
    is_older = pc.fill_null(pc.less(newest_at, pa.scalar(oldest_at, newest_at.type)), True)  # null: its texts have seen no event
    return found["is_held_out"].to_numpy().astype(bool), is_older.to_numpy().astype(bool)


def _profile_name(name: str) -> str:
    """A user attribute's field; an item attribute may have the same name."""
    return f"user {name}"


def _tensor(columns: list[Int32], to: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(columns)).to(to)
