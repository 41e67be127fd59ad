"""What each template's answers came to: the place to compare two templates that share a view's subjects (A/B)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from kar.page.facts import Facts
from kar.page.marks import stack

_KEYS = ["view", "subject_id"]
_NO_ANSWER = ("over_budget", "exhausted", "bad_request")


@dataclass(frozen=True)
class TemplateOutcome:
    """One template version of one view.

    Args:
        version: id@version:digest.
        subjects: in its share, asked or not.
        asked: tonight.
        answered: of those, with an answer to judge.
        accepted: of those, accepted.
        text_count: texts of it that are published, of any night.
        words, tokens: mean of those texts: words, answer tokens as the server counted; None without any.
        refused: reason → subjects whose request stands refused, the most frequent first.
    """

    view: str
    version: str
    is_variant: bool
    subjects: int
    asked: int
    answered: int
    accepted: int
    text_count: int
    words: float | None
    tokens: float | None
    refused: list[tuple[str, int]]
    lane: Markup

    @property
    def accepted_share(self) -> float | None:
        return self.accepted / self.answered if self.answered else None


def templates(facts: Facts) -> list[TemplateOutcome]:
    """Per view and template version: those of tonight's plan, and older ones whose texts are still published."""
    planned = _planned(facts.plan)
    texts = _texts(facts.knowledge)
    answers, refused = _answers(facts.plan, facts.knowledge, facts.refused)
    in_plan = Counter(view for view, _ in planned)
    found = []
    for view, version in sorted({*planned, *texts}, key=lambda key: (not key[0].startswith("user."), key)):
        key = (view, version)
        counts, (text_count, words, tokens) = planned.get(key, Counter()), texts.get(key, (0, None, None))
        accepted, turned = answers.get(key, (0, 0))
        answered = accepted + turned
        found.append(
            TemplateOutcome(
                view=view,
                version=version,
                is_variant=in_plan[view] > 1 and key in planned,
                subjects=sum(counts.values()),
                asked=counts["ask"],
                answered=answered,
                accepted=accepted,
                text_count=text_count,
                words=words,
                tokens=tokens,
                refused=refused[key].most_common(),
                lane=stack([("fate-tonight", accepted / answered), ("fate-refused", turned / answered)] if answered else [], height=14),
            )
        )
    return found


def _planned(plan: pa.Table) -> dict[tuple[str, str], Counter[str]]:
    """(view, version) → decision → subjects; imported views have no template."""
    groups = plan.group_by(["view", "template_version", "decision"]).aggregate([([], "count_all")])
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for row in groups.to_pylist():
        if row["template_version"]:
            found[row["view"], row["template_version"]][row["decision"]] += row["count_all"]
    return dict(found)


def _texts(knowledge: pa.Table) -> dict[tuple[str, str], tuple[int, float | None, float | None]]:
    """(view, version) → texts, mean words, mean answer tokens."""
    sums = [([], "count_all"), ("words", "mean"), ("completion_tokens", "mean")]
    groups = knowledge.group_by(["view", "template_version"]).aggregate(sums)
    return {
        (row["view"], row["template_version"]): (row["count_all"], row["words_mean"], row["completion_tokens_mean"])
        for row in groups.to_pylist()
        if row["template_version"]
    }


def _answers(
    plan: pa.Table, knowledge: pa.Table, refused: pa.Table
) -> tuple[dict[tuple[str, str], tuple[int, int]], dict[tuple[str, str], Counter[str]]]:
    """(view, version) → accepted and refused answers of tonight; and → reason → refusals that stand, tonight's and older."""
    own = plan.filter(pc.is_in(plan.column("decision"), value_set=pa.array(["ask", "refused"]))).select(
        [*_KEYS, "template_version", "decision"]
    )
    asked = own.filter(pc.equal(own.column("decision"), "ask")).select([*_KEYS, "template_version"])
    tonight = knowledge.filter(pc.equal(knowledge.column("origin"), "tonight")).select(_KEYS)
    told = refused.filter(pc.invert(pc.is_in(refused.column("reason"), value_set=pa.array(_NO_ANSWER)))).select([*_KEYS, "reason"])
    accepted = _count(asked.join(tonight, _KEYS, join_type="inner"), [])
    turned = _count(asked.join(told.select(_KEYS).group_by(_KEYS).aggregate([]), _KEYS, join_type="inner"), [])
    reasons: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for (view, version, reason), count in _count(own.join(told, _KEYS, join_type="inner"), ["reason"]).items():
        reasons[view, version][reason] += count
    pairs = {(key[0], key[1]) for key in [*accepted, *turned]}
    return {pair: (accepted.get(pair, 0), turned.get(pair, 0)) for pair in pairs}, reasons


def _count(rows: pa.Table, more: list[str]) -> dict[tuple[str, ...], int]:
    names = ["view", "template_version", *more]
    groups = rows.group_by(names).aggregate([([], "count_all")]).to_pylist()
    return {tuple(row[name] for name in names): row["count_all"] for row in groups}
