"""The arms: which views each gives the ranker, and through which adaptor. All train and are judged on the very same examples.

base            no vectors
text            the raw text's vectors: user.raw, item.raw
knowledge       the views that the settings name
permuted        the knowledge arm's vectors, shuffled across the subjects that have one: as many parameters, no knowledge

Ablations, each the knowledge arm with one thing changed:
user_only, item_only         the views of one side alone
target_only                  the items of the history carry none (KAR's way); the same as the knowledge arm without history_knowledge
without:FACTOR               every view of that factor left out (`item.facts:mood`, `user.preference:mood`)
without:VIEW                 that view left out, with all of its factors (`without:item.engagement`)
masked, noise                the texts with their names replaced, and random words of the same length (`vectors.controls`)
one_gate, mlp, linear, random   another form of the adaptor

A side without views in the settings has none in any arm, so that text is judged against knowledge over the same sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import ModelError
from kar.model.batches import Bool, Kind, Side, TrainingData
from kar.model.knowledge import Join, Vectors, attach, read
from kar.settings import AdaptorSettings
from kar.settings.schema import AdaptorForm, Arm
from kar.tables import whole_view

_RAW: dict[Side, str] = {"user": "user.raw", "item": "item.raw"}
_CONTROLS = ("masked", "noise")
_FORMS: tuple[AdaptorForm, ...] = ("one_gate", "mlp", "linear", "random")


@dataclass(frozen=True)
class Plan:
    """What one arm is.

    Args:
        views: side → views; none: the base arm, without adaptor.
        is_permuted: its vectors are shuffled across the subjects.
        in_history: the items of the history carry theirs.
        form: of the adaptor.
    """

    views: dict[Side, list[str]]
    is_permuted: bool = False
    in_history: bool = True
    form: AdaptorForm = "experts"

    @property
    def is_text(self) -> bool:
        """Raw text may serve any example."""
        return bool(self.views) and all(view == _RAW[side] for side, views in self.views.items() for view in views)


def plan(arm: Arm, settings: AdaptorSettings) -> Plan:
    """What an arm of that name is under these settings.

    Raises:
        ModelError: no such arm, or one that leaves nothing.
    """
    sides: dict[Side, list[str]] = {"user": settings.user_views, "item": settings.item_views}
    named = {side: list(views) for side, views in sides.items() if views}
    knowledge = Plan(named, in_history=settings.history_knowledge, form=settings.form)
    if arm == "base":
        return Plan({}, in_history=False)
    if arm == "knowledge":
        return knowledge
    if arm == "permuted":
        return replace(knowledge, is_permuted=True)
    if arm == "text":
        return replace(knowledge, views={side: [_RAW[side]] for side in named})
    if arm == "target_only":
        return replace(knowledge, in_history=False)
    if arm in _CONTROLS:
        return replace(knowledge, views={side: [f"{view}@{arm}" for view in views] for side, views in named.items()})
    for form in _FORMS:
        if arm == form:
            return replace(knowledge, form=form)
    left = _left(arm, named)
    if not left:
        raise ModelError(f"the arm {arm} leaves no views of {named}", "take it out of adaptor.arms")
    return replace(knowledge, views=left)


def _left(arm: Arm, named: dict[Side, list[str]]) -> dict[Side, list[str]]:
    """The views of an arm that leaves some out."""
    if arm in ("user_only", "item_only"):
        return {side: views for side, views in named.items() if f"{side}_only" == arm}
    left_out = arm.removeprefix("without:")
    kept = {side: [view for view in views if left_out not in (view.partition(":")[2], whole_view(view))] for side, views in named.items()}
    if kept == named:
        what = f"no view is {left_out!r}" if "." in left_out else f"no view is of the factor {left_out!r}"
        raise ModelError(f"{what}: {named}", "name views as in adaptor.item_views, or take the arm out of adaptor.arms")
    return {side: views for side, views in kept.items() if views}


@dataclass(frozen=True)
class Arms:
    """The vectors of all arms of a run.

    Args:
        plans: what each arm of the settings is.
        knowledge: what the knowledge arm is or would be.
        vectors: view → its vectors; empty ones where there are none.
        width: of all vectors; 1 if there are none at all.
        encoder_id: of the knowledge arm's vectors; empty if there are none.
        is_allowed: side → per example, whether knowledge may serve it (the raw text may always).
    """

    plans: dict[Arm, Plan]
    knowledge: Plan
    vectors: dict[str, Vectors]
    width: int
    encoder_id: str
    is_allowed: dict[Side, Bool]

    def kinds(self, arm: Arm, data: TrainingData, seed: int) -> list[Kind]:
        """An arm's knowledge, joined to the examples. The seed decides the permuted arm's shuffle."""
        return self.attach(arm, self.joins(arm, data, seed), data, self.is_allowed)

    def joins(self, arm: Arm, data: TrainingData, seed: int) -> list[Join]:
        """An arm's knowledge of all users and items, for examples that come part by part."""
        chosen = self.plans[arm]
        return [
            Join.of(data, view, side, self.vectors[view], self.width, seed if chosen.is_permuted else None, in_history=chosen.in_history)
            for side, views in chosen.views.items()
            for view in views
        ]

    def attach(self, arm: Arm, joins: Iterable[Join], data: TrainingData, is_allowed: Mapping[Side, Bool]) -> list[Kind]:
        """An arm's joins to some examples. `is_allowed`: of those examples, as `Arms.is_allowed` is of all."""
        is_text = self.plans[arm].is_text
        return [join.to(data, None if is_text else is_allowed[join.side]) for join in joins]

    def covered(self, data: TrainingData) -> Bool:
        """[examples] whether every side with views has knowledge of the example's subject, in at least one of them."""
        covered = np.ones(len(data.example_id_E), dtype=bool)
        for side, views in self.knowledge.views.items():
            rows = [attach(data, view, side, self.vectors[view], self.width, self.is_allowed[side], None).row_E for view in views]
            covered &= np.any([row.cpu().numpy() > 0 for row in rows], axis=0)
        return covered


def prepare(
    knowledge_vector: pa.Table,
    example: pa.Table,
    settings: AdaptorSettings,
    read_views: Callable[[Sequence[str]], dict[str, Vectors]] | None = None,
) -> Arms:
    """Read the vectors of all arms.

    Args:
        knowledge_vector: the table; its columns view and encoder_id, if `read_views` is given.
        example: its columns has_user_knowledge and has_item_knowledge.
        read_views: reads the vectors of some views; None: they are in `knowledge_vector`.

    Raises:
        ModelError: an arm is asked for whose vectors were not made; the vectors of an arm are of several widths or encoders, or not finite.
    """
    if not settings.user_views and not settings.item_views:
        raise ModelError("adaptor.user_views and adaptor.item_views are both empty", "name at least one view")
    plans = {arm: plan(arm, settings) for arm in settings.arms}
    knowledge = plan("knowledge", settings)
    views = list(dict.fromkeys(view for chosen in (knowledge, *plans.values()) for per_side in chosen.views.values() for view in per_side))
    vectors = read_views(views) if read_views else {view: read(knowledge_vector, view) for view in views}
    _refuse_missing(plans, vectors)
    widths = [found.vectors_NT.shape[1] for found in vectors.values() if len(found.vectors_NT)]  # knowledge first
    return Arms(
        plans,
        knowledge,
        vectors,
        widths[0] if widths else 1,
        _encoder_id(knowledge_vector, [view for per_side in knowledge.views.values() for view in per_side]),
        allowed(example),
    )


def allowed(example: pa.Table) -> dict[Side, Bool]:
    """Side → whether knowledge may serve each example."""
    sides: tuple[Side, ...] = ("user", "item")
    return {side: example[f"has_{side}_knowledge"].to_numpy().astype(bool) for side in sides}


def _refuse_missing(plans: dict[Arm, Plan], vectors: dict[str, Vectors]) -> None:
    """Raise ModelError if vectors that the vectors stage makes on request were not requested; knowledge itself may be missing."""
    for arm, setting in (("text", "raw_views = true"), ("masked", 'controls = ["masked"]'), ("noise", 'controls = ["noise"]')):
        if arm not in plans:
            continue
        empty = [view for per_side in plans[arm].views.values() for view in per_side if not len(vectors[view].vectors_NT)]
        if empty:
            raise ModelError(
                f"the {arm} arm needs vectors of {' and '.join(empty)}, and there are none",
                f"set vectors.{setting} and run: kar run vectors; or leave {arm} out of adaptor.arms",
            )


def _encoder_id(knowledge_vector: pa.Table, views: list[str]) -> str:
    of_views = knowledge_vector.filter(pc.is_in(knowledge_vector["view"], pa.array(views, pa.string())))
    found = sorted(pc.unique(of_views["encoder_id"]).to_pylist())
    if len(found) > 1:
        raise ModelError(f"the views {', '.join(views)} hold vectors of several encoders: {', '.join(found)}", "run: kar run vectors")
    return found[0] if found else ""
