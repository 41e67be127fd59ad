"""retrieval: rank all items by towers over the text vectors, one view against another (LLM-Rec's evaluation).

reads   sequence; item_profile, knowledge and knowledge_vector of the snapshot date
writes  retrieval_metric, retrieval_comparison
rejects met_again     a later event of a user and an item that met before
        not_to_find   a positive of valid or test whose user has none in train, or (temporal) whose item nobody met there; all splits

Not part of `run all`: it runs by name, `kar run retrieval` or `kar retrieve`, once examples and vectors are made.

The paper takes texts that know nothing of the splits. Texts of reviews or of neighbours may know what a split asks: their evidence is
looked up in its valid and test part, and `retrieval.seen` says what becomes of their view.
"""

from __future__ import annotations

import pyarrow.compute as pc

from kar.model.knowledge import read
from kar.model.retrieval import texts
from kar.model.retrieval.judge import Judged, comparison_rows, metric_rows
from kar.model.retrieval.splits import Pairs, Protocol, Split, cut
from kar.model.retrieval.texts import RAW, UNTRAINED, Evidence, Feature, Plan
from kar.model.retrieval.train import Trained, by_popularity, train
from kar.settings import RetrievalSettings, Settings
from kar.store import Inputs, Output
from kar.tables import from_rows, whole_view

_EVIDENCE = ["subject_id", "evidence_users", "evidence_items", "evidence_newest_at"]
Seen = dict[str, dict[str, int]]


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    """Cut the interactions, train every arm on every split, write the two tables."""
    of = settings.retrieval
    sequence = inputs.table("sequence")
    pairs = Pairs.of(sequence)
    splits = [
        cut(pairs, protocol, number, of.draw_seed)
        for protocol in of.protocols
        for number in range(of.splits if protocol == "random" else 1)
    ]
    vectors = inputs.table("knowledge_vector", columns=["view", "subject_id", "vector"])
    there = pc.unique(vectors["view"]).to_pylist()
    views = texts.item_views(there, of) if of.needs_views else []
    seen = seen_of(inputs, pairs, splits, [*([RAW] if {"original", "enriched"} & set(of.arms) else []), *views])
    chosen = {protocol: _plans(protocol, views, there, seen, of, out) for protocol in of.protocols}
    used = dict.fromkeys(view for plans in chosen.values() for plan in plans for view in plan.views)
    features = {view: Feature.of(view, read(vectors, view), pairs.item_ids) for view in used}
    found = judged(pairs, splits, chosen, features, of)
    marked: set[tuple[str, str]] = {
        (protocol, plan.arm)
        for protocol, plans in chosen.items()
        for plan in plans
        if any(whole_view(view) in seen.get(protocol, {}) for view in plan.views)
    }
    out.write("retrieval_metric", from_rows("retrieval_metric", metric_rows(found, marked)))
    out.write("retrieval_comparison", from_rows("retrieval_comparison", comparison_rows(found, marked, of.resamples)))
    out.reject("met_again", sequence.num_rows - len(pairs.user_P))
    out.reject("not_to_find", sum(split.left_out for split in splits))
    _record(out, pairs, splits, features, found, seen)


def seen_of(inputs: Inputs, pairs: Pairs, splits: list[Split], views: list[str]) -> Seen:
    """Protocol → view → texts that have seen what one of its splits asks, the most of any split; views without such texts left out."""
    knowledge = inputs.table("knowledge", columns=["view", *_EVIDENCE, "neighbour_items"])
    found: Seen = {}
    for view in dict.fromkeys(whole_view(view) for view in views):
        rows = inputs.table("item_profile", columns=_EVIDENCE) if view == RAW else knowledge.filter(pc.equal(knowledge["view"], view))
        rows = rows.filter(pc.is_in(rows["subject_id"], value_set=pairs.item_ids))
        evidence = Evidence.of(rows, pairs)
        for split in splits:
            if count := evidence.seen(split, pairs):
                of_protocol = found.setdefault(split.protocol, {})
                of_protocol[view] = max(count, of_protocol.get(view, 0))
    return found


def _plans(protocol: str, views: list[str], there: list[str], seen: Seen, settings: RetrievalSettings, out: Output) -> list[Plan]:
    """The arms to train in a protocol, less those of views that have seen too much."""
    of_protocol = seen.get(protocol, {})
    if settings.seen == "refuse":
        texts.refuse(protocol, of_protocol)
    if settings.seen != "leave_out" or not of_protocol:
        return texts.plans(settings, views, there)
    out.warn(f"{protocol}: left out, for their texts have seen what is asked: {', '.join(sorted(of_protocol))}")
    kept = [view for view in views if whole_view(view) not in of_protocol]
    dropped = {"original", "enriched"} if RAW in of_protocol else set()
    dropped |= set() if kept else {"views", "all", "enriched", "noise", "permuted"}
    arms = [arm for arm in settings.arms if arm not in dropped]
    return texts.plans(settings.model_copy(update={"arms": arms}), kept, there)


def judged(
    pairs: Pairs, splits: list[Split], plans: dict[Protocol, list[Plan]], features: dict[str, Feature], settings: RetrievalSettings
) -> list[Judged]:
    """Every arm on every split with every seed. Arms of the same views (`all` of a single view) are one training."""
    found = []
    for split in splits:
        if UNTRAINED in settings.arms:
            found.append(Judged.of(UNTRAINED, pairs, split, 0, by_popularity(pairs, split, settings.draw_seed)))
        for seed in settings.seeds:
            done: dict[tuple[tuple[str, ...], bool], Trained] = {}
            for plan in plans[split.protocol]:
                key = plan.views, plan.is_permuted
                if key not in done:
                    parts = [features[view].permuted(seed) if plan.is_permuted else features[view] for view in plan.views]
                    done[key] = train(plan.arm, pairs, split, parts, settings, seed)
                found.append(Judged.of(plan.arm, pairs, split, seed, done[key]))
    return found


def _record(out: Output, pairs: Pairs, splits: list[Split], features: dict[str, Feature], found: list[Judged], seen: Seen) -> None:
    """What the splits are like, what was trained; lists hold one number per split and seed."""
    by_arm: dict[str, list[Judged]] = {}
    for one in found:
        by_arm.setdefault(f"{one.split.protocol} {one.arm}", []).append(one)
    trained = {name: ones for name, ones in by_arm.items() if ones[0].arm != UNTRAINED}
    out.record(
        pairs=len(pairs.user_P),
        users=len(pairs.user_ids),
        items=len(pairs.item_ids),
        train_pairs={str(split): len(split.train_P) for split in splits},
        test_pairs={str(split): len(split.test_P) for split in splits},
        candidates={str(split): int(split.is_candidate_I.sum()) for split in splits},
        covered_items={view: int(feature.has_I.sum()) for view, feature in features.items()},
        seen_texts=seen,
        parameters={name: ones[0].trained.parameter_count for name, ones in trained.items()},
        chosen_epochs={name: [one.trained.chosen for one in ones] for name, ones in trained.items()},
        epochs={name: [len(one.trained.valid_ndcg) for one in ones] for name, ones in trained.items()},
        seconds={name: round(sum(one.trained.seconds for one in ones), 2) for name, ones in trained.items()},
        chosen_on="valid NDCG@10",
    )
