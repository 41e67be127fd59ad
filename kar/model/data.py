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
from kar.model import profile
from kar.model.bases import Base
from kar.model.batches import SPLITS, Bool, Lists, Side, TrainingData
from kar.model.seen import Seen, ints, rounded, rows
from kar.model.vocabulary import Fields, Int64, Vocabulary, first_values

Int32 = np.ndarray[tuple[int, ...], np.dtype[np.int32]]
HOUR, USER_MEAN, ITEM_MEAN = "hour of day", "mean of user", "mean of item"  # with spaces: no attribute is named so


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
        of_item, of_user: field → rows of the embedding table, of every item or user.
        listed: every value of the items' attributes; None: the base shows first values only.
        vocabularies: field → its values.
        item_means: None: the base does not show them.
        is_held_out_I: whether the item is held out of training.
        train_count_U, train_count_I: training examples of each user and item.
        may_meet_I: whether the item's texts are older than every example.
        counts: split → examples.
    """

    base: Base
    fields: Fields
    user_ids: pa.Array
    item_ids: pa.Array
    of_item: dict[str, Int32]
    of_user: dict[str, Int32]
    listed: _Listed | None
    vocabularies: dict[str, Vocabulary]
    item_means: profile.ItemMeans | None
    is_held_out_I: Bool
    train_count_U: Int64
    train_count_I: Int64
    may_meet_I: Bool
    counts: dict[str, int]

    def gather(self, example: pa.Table, sequence: pa.Table, device: str = "cpu") -> TrainingData:
        """Tensors of a part: some examples, and at least all events of their users.

        Args:
            example, sequence: rows that `fit` has seen, in file order. Without any event: histories are never looked at.
        """
        user_V, item_V = rows(sequence["user_id"], self.user_ids), rows(sequence["item_id"], self.item_ids)
        user_E, item_E = rows(example["user_id"], self.user_ids), rows(example["item_id"], self.item_ids)
        position_E = ints(example["position"])
        own_E = np.searchsorted(user_V, user_E) + position_E
        length_E = np.minimum(position_E, self.base.history_events)
        own_at = sequence["event_at"].take(pa.array(own_E)) if sequence.num_rows else example["event_at"]
        of_example = self._of_example(example, item_E, ints(own_at.cast(pa.int64())))
        single = [code_I[item_E] for code_I in self.of_item.values()] + [code_U[user_E] for code_U in self.of_user.values()]
        rating_V = self._codes("rating", rounded(sequence["rating"]))
        to = torch.device(device)
        return TrainingData(
            fields=self.fields,
            target_fields=tuple(self.of_item),
            profile_fields=(*self.of_user, *of_example),
            single_ES=_tensor([*single, *of_example.values()], to).t().contiguous(),
            start_E=torch.from_numpy(own_E - length_E).to(to),
            length_E=torch.from_numpy(length_E).to(to),
            event_KV=_tensor([*(code_I[item_V] for code_I in self.of_item.values()), rating_V], to),
            label_V=torch.from_numpy(ints(sequence["label"]).astype(np.int8)).to(to),
            label_E=torch.from_numpy(ints(example["label"]).astype(np.float32)).to(to),
            user_E=user_E,
            item_E=item_E,
            item_V=item_V,
            user_ids=self.user_ids,
            item_ids=self.item_ids,
            example_id_E=ints(example["example_id"]),
            split_rows={split: np.flatnonzero(pc.equal(example["split"], split).to_numpy()) for split in SPLITS},
            train_count_U=self.train_count_U,
            train_count_I=self.train_count_I,
            is_held_out_I=self.is_held_out_I,
            may_meet_I=self.may_meet_I,
            vocabularies=self.vocabularies,
            lists=None if self.listed is None else self.listed.tensors(item_E, to),
        )

    def _of_example(self, example: pa.Table, item_E: Int64, at_E: Int64) -> dict[str, Int32]:
        """Codes of the fields that are the example's own. `at_E`: when its event happened."""
        found = {}
        if self.base.has_hour:
            found[HOUR] = self._codes(HOUR, profile.hours(example["event_at"]))
        if self.item_means is not None:
            mean_E = self.item_means.before(item_E, at_E)
            found[ITEM_MEAN] = self._codes(ITEM_MEAN, pc.if_else(pa.array(self.is_held_out_I[item_E]), None, mean_E))
        return found

    def _codes(self, field: str, values: pa.Array | pa.ChunkedArray) -> Int32:
        return (self.vocabularies[field].codes(values) + self.fields.offset(field)).astype(np.int32)


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
    seen = Seen(base.history_events, keeps_free=base.has_means)
    for example, sequence in parts:
        seen.add(example, sequence)
    seen.check()
    user_ids, item_ids = pa.chunked_array(seen.user_ids).combine_chunks(), seen.item["item_id"].combine_chunks()
    is_held_out_I, may_meet_I = _standing(example_item, item_ids, seen.oldest_at)
    train_count_U = np.concatenate(seen.train_count_U)
    trained_U, trained_I = train_count_U > 0, seen.item["is_seen"].to_numpy() & ~is_held_out_I
    by_place = item_attribute.sort_by([("item_id", "ascending"), ("place", "ascending")])
    listed = {name: profile.listed(item_ids, by_place, name) for name in base.item_lists}
    of_item = {name: _fitted(values, trained_I, *_also(listed, name, trained_I)) for name, values in _item_values(item_ids, by_place, base)}
    of_user = {name: _fitted(values, trained_U) for name, values in _user_values(user_ids, user_attribute, base)}
    vocabularies, item_means = {}, None
    if base.has_hour:
        vocabularies[HOUR] = Vocabulary.of(pa.array(sorted(seen.hours), pa.int64()))
    if base.has_means:
        free = profile.FreeEvents.of(seen.free, item_ids)
        of_user[USER_MEAN] = _fitted(profile.user_means(free.value_N, free.user_N, len(user_ids)), trained_U)
        item_means = profile.ItemMeans.of(free)
        vocabularies[ITEM_MEAN] = Vocabulary.of(item_means.categories())
    vocabularies["rating"] = Vocabulary.of(pa.array(sorted(seen.ratings), pa.float64()))

    blocks = {**of_item, **of_user}
    fields = Fields({n: block.vocabulary.size for n, block in blocks.items()} | {n: v.size for n, v in vocabularies.items()})
    return Fitted(
        base=base,
        fields=fields,
        user_ids=user_ids,
        item_ids=item_ids,
        of_item={name: block.rows(fields.offset(name)) for name, block in of_item.items()},
        of_user={name: block.rows(fields.offset(name)) for name, block in of_user.items()},
        listed=_Listed.of(listed, of_item, fields, len(item_ids)) if listed else None,
        vocabularies={name: block.vocabulary for name, block in blocks.items()} | vocabularies,
        item_means=item_means,
        is_held_out_I=is_held_out_I,
        train_count_U=train_count_U,
        train_count_I=seen.item["train_count"].to_numpy(),
        may_meet_I=may_meet_I,
        counts={split: seen.labels[split, 0] + seen.labels[split, 1] for split in SPLITS},
    )


@dataclass(frozen=True)
class _Block:
    """One field: its vocabulary, and the code of each of its values, counted from the block's beginning."""

    vocabulary: Vocabulary
    codes: Int64

    def rows(self, offset: int) -> Int32:
        """Rows of the embedding table, the block beginning at `offset`."""
        return (self.codes + offset).astype(np.int32)


def _fitted(values: pa.Array | pa.ChunkedArray, trained: Int64 | Bool, *more: pa.Array) -> _Block:
    """Codes of values, by a vocabulary of those that training shows.

    Args:
        trained: which of the values training shows, as a mask or as rows.
        more: other values that training shows.
    """
    shown = values.filter(pa.array(trained)) if trained.dtype == np.bool_ else values.take(pa.array(trained))
    chunks = [part for found in (shown, *more) for part in (found.chunks if isinstance(found, pa.ChunkedArray) else [found])]
    vocabulary = Vocabulary.of(pa.chunked_array(chunks, values.type))
    return _Block(vocabulary, vocabulary.codes(values))


def _item_values(item_ids: pa.Array, by_place: pa.Table, base: Base) -> list[tuple[str, pa.Array]]:
    """(field, value per item): the id, and the first value of each attribute."""
    found = [("item_id", item_ids)]
    for name in base.item_fields:
        found.append((name, first_values(item_ids, by_place["item_id"], by_place["name"], by_place["value"], name)))
    return _there(found, "item")


def _user_values(user_ids: pa.Array, attribute: pa.Table, base: Base) -> list[tuple[str, pa.Array]]:
    """(field, value per user)."""
    found = [("user_id", user_ids)] if base.has_user_id else []
    for name in base.user_fields:
        values = first_values(user_ids, attribute["user_id"], attribute["name"], attribute["value"], name)
        found.append((f"user {name}", values))  # an item attribute may have the same name
    return _there(found, "user")


def _there(found: list[tuple[str, pa.Array]], side: Side) -> list[tuple[str, pa.Array]]:
    """Those fields; raises ModelError for one that nobody has a value of."""
    for name, values in found:
        if values.null_count == len(values):
            attribute = name.removeprefix("user ")
            raise ModelError(f"no {side} has the attribute {attribute!r}", f"name an attribute of the tables in adaptor.{side}_fields")
    return found


def _also(listed: dict[str, tuple[Int64, pa.Array]], name: str, trained_I: Bool) -> list[pa.Array]:
    """What training shows of an attribute's other values, where the base shows them all."""
    if name not in listed:
        return []
    row_X, values = listed[name]
    return [values.filter(pa.array(trained_I[row_X]))]


@dataclass(frozen=True)
class _Listed:
    """Bags of codes per item and multi-valued field; see `kar.model.batches.Lists`."""

    names: tuple[str, ...]
    code_X: Int32
    first_IM: Int64
    length_IM: Int64

    @classmethod
    def of(cls, listed: dict[str, tuple[Int64, pa.Array]], of_item: dict[str, _Block], fields: Fields, item_count: int) -> _Listed:
        """A field shares the block of the same attribute's first value."""
        lengths = [np.bincount(row_X, minlength=item_count) for row_X, _ in listed.values()]
        starts = [np.cumsum(length_I) - length_I for length_I in lengths]
        before = np.cumsum([0, *(len(row_X) for row_X, _ in listed.values())])[:-1]
        codes = [of_item[name].vocabulary.codes(values) + fields.offset(name) for name, (_, values) in listed.items()]
        return cls(
            names=tuple(f"all {name}" for name in listed),
            code_X=np.concatenate(codes).astype(np.int32),
            first_IM=np.stack([start_I + first for start_I, first in zip(starts, before, strict=True)], axis=1),
            length_IM=np.stack(lengths, axis=1),
        )

    def tensors(self, item_E: Int64, to: torch.device) -> Lists:
        code_X, first_IM, length_IM = (torch.from_numpy(found).to(to) for found in (self.code_X, self.first_IM, self.length_IM))
        return Lists(self.names, code_X, first_IM, length_IM, torch.tensor(item_E, device=to))


def _standing(example_item: pa.Table, item_ids: pa.Array, oldest_at: dt.datetime | None) -> tuple[Bool, Bool]:
    """[items] whether each is held out of training, and whether its texts are older than every example."""
    row_I = rows(pa.chunked_array([item_ids]), example_item["item_id"].combine_chunks())
    if (row_I < 0).any():
        raise ModelError("the table example_item lacks an item of the table sequence", "make the examples again: kar run examples")
    found = example_item.take(pa.array(row_I))
    newest_at = found["evidence_newest_at"]
    is_older = pc.fill_null(pc.less(newest_at, pa.scalar(oldest_at, newest_at.type)), True)  # null: its texts have seen no event
    return found["is_held_out"].to_numpy().astype(bool), is_older.to_numpy().astype(bool)


def _tensor(columns: list[Int32], to: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(columns)).to(to)
