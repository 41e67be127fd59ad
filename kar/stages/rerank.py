"""rerank: train re-rankers over candidate lists with the adapted vectors, and judge the same arms by MAP and NDCG.

reads   example, example_item, sequence, user_attribute, item_attribute, history, knowledge_vector
writes  rerank_list, rerank_metric, rerank_comparison
rejects no_positive    a group of consecutive examples none of which is positive
        over_cap       a group beyond rerank.lists_per_user of its user and split
        no_negative    a group of positives for whose user no item is left that could stand beside them

Not part of `run all`: it runs by name, `kar run rerank` or `kar rerank`, once the examples and vectors are made.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa

from kar.model import arms, leakage
from kar.model.bases import base_of
from kar.model.batches import TrainingData
from kar.model.data import load
from kar.model.rerank import first_stage, judge, lists
from kar.model.rerank.candidates import Candidates
from kar.model.rerank.train import CHOSEN_AT, Prepared, Reranked, train_all
from kar.settings import Settings
from kar.store import Inputs, Output
from kar.tables import from_rows


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    """Make the lists, order them by the first stage, train every model × arm × seed, write the three tables."""
    data, candidates = listed(inputs, out, settings)
    prepared = Prepared(candidates, _arms(inputs, candidates, settings), settings.adaptor, settings.rerank)
    found = train_all(prepared)
    out.write("rerank_list", _list_table(data, candidates))
    out.write("rerank_metric", from_rows("rerank_metric", judge.metric_rows(found, candidates)))
    out.write("rerank_comparison", from_rows("rerank_comparison", judge.comparison_rows(found, candidates, settings.rerank.resamples)))
    _record(out, found, candidates, settings)


def listed(inputs: Inputs, out: Output, settings: Settings) -> tuple[TrainingData, Candidates]:
    """The examples, and the candidate lists in their initial order. Raises LeakError as `leakage.refuse` does."""
    example, example_item, sequence = inputs.table("example"), inputs.table("example_item"), inputs.table("sequence")
    leakage.refuse([example], inputs.table("history").select(["user_id", "position"]), example_item)
    attributes = inputs.table("user_attribute"), inputs.table("item_attribute")
    base = base_of(settings.rerank.base, settings.adaptor, settings.histories.cap)
    data = load(example, example_item, sequence, *attributes, base, settings.adaptor.device)
    made, left_out = lists.build(data, example, example_item, sequence, settings.rerank)
    for reason, count in left_out.items():
        out.reject(reason, count)
    drawn = Candidates.of(data, made)
    return data, drawn.ordered(first_stage.scores(drawn, data, settings.adaptor, settings.rerank))


def _arms(inputs: Inputs, candidates: Candidates, settings: Settings) -> arms.Arms:
    """The arms' vectors, with what may serve a candidate.

    A user's knowledge may serve a list if it may serve the list's first example. An item's may serve wherever there is some:
    no list holds an item whose texts have seen an event at or after its first example.
    """
    example = inputs.table("example")
    found = arms.prepare(inputs.table("knowledge_vector"), example, settings.adaptor.model_copy(update={"arms": settings.rerank.arms}))
    counts = candidates.lists.is_item_LN.sum(axis=1)
    is_user_L = example["has_user_knowledge"].to_numpy().astype(bool)[candidates.lists.example_L]
    return dataclasses.replace(found, is_allowed={"user": np.repeat(is_user_L, counts), "item": np.ones(counts.sum(), bool)})


def _list_table(data: TrainingData, candidates: Candidates) -> pa.Table:
    """The table rerank_list."""
    found = candidates.lists
    is_item_LN = candidates.in_order(found.is_item_LN)
    offsets = np.concatenate([[0], is_item_LN.sum(axis=1).cumsum()]).astype(np.int32)
    split_L = np.empty(len(found.user_L), object)
    for split, rows in found.split_rows.items():
        split_L[rows] = split

    def inside(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, values)

    first_position_L = np.where(found.position_LN < 0, np.iinfo(np.int64).max, found.position_LN).min(axis=1)
    return pa.table(
        {
            "list_id": np.arange(len(found.user_L)),
            "user_id": data.user_ids.take(pa.array(found.user_L)),
            "split": pa.array(split_L, pa.string()),
            "position": first_position_L,
            "item_ids": inside(data.item_ids.take(pa.array(candidates.in_order(found.item_LN)[is_item_LN]))),
            "labels": inside(pa.array(candidates.in_order(found.label_LN)[is_item_LN].astype(np.float64))),
            "positions": inside(pa.array(candidates.in_order(found.position_LN)[is_item_LN].astype(np.float64))),
            "scores": inside(pa.array(candidates.in_order(candidates.score_LN)[is_item_LN].astype(np.float64))),
        }
    )


def _record(out: Output, found: list[Reranked], candidates: Candidates, settings: Settings) -> None:
    """What the lists are like, what was trained, how fast; lists hold one number per seed."""
    made = candidates.lists
    test = made.split_rows["test"]
    by_arm: dict[str, list[Reranked]] = {}
    for done in found:
        by_arm.setdefault(f"{done.model} {done.arm}", []).append(done)
    out.record(
        first_stage=settings.rerank.first_stage,
        negatives=settings.rerank.negatives,
        list_counts={split: len(rows) for split, rows in made.split_rows.items()},
        test_user_count=len(np.unique(made.user_L[test])),
        positives_per_test_list=round(float(made.label_LN[test].sum(axis=1).mean()), 3),
        short_list_share=round(float((made.is_item_LN.sum(axis=1) < settings.rerank.list_length).mean()), 4),
        parameters={name: done[0].parameter_count for name, done in by_arm.items()},
        lists_per_s={name: [round(each.lists_per_s) for each in done] for name, done in by_arm.items()},
        chosen_epochs={name: [each.chosen for each in done] for name, done in by_arm.items()},
        valid_ndcg={name: [[round(epoch.valid_ndcg, 4) for epoch in each.epochs] for each in done] for name, done in by_arm.items()},
        chosen_on=f"valid NDCG@{CHOSEN_AT}",
        test_touched={name: len(done) for name, done in by_arm.items()},  # each training scores them once, after its last epoch
    )
