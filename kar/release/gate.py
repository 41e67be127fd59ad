"""The gate before promotion: a release that is written and verified is held against the one that is served.

    judge(new, before, limits, told) → one verdict per check; CURRENT moves only if every one is passed

    check              measured                                                                           over
    rows SIDE          rows, as a share of the last release's                                             all
    keys SIDE          share of the last release's ids that are still there; 0 if ids repeat or descend   all
    finite VIEW        vectors that are not finite                                                        all *
    norm VIEW          change of the mean length, as a share                                              all *, a sample of the last
    norm_spread VIEW   longest vector in median lengths                                                   all *
    effective_rank …   of the vectors with knowledge; held against a floor and against the last release   2,048
    collapse VIEW      mean cosine of two different subjects                                              2,048
    unchanged VIEW     lowest cosine to the last release where the text is the same: must be 1            all *
    drift VIEW         mean cosine to the last release where the text changed                             65,536
    coverage VIEW      share of the side's rows with knowledge; against a floor and the last release      all
    rejected VIEW      share of tonight's answers that were refused                                       all
    reasons VIEW       largest rise of one reason's share since the night before                          all
    uplift             what the training run says, where the publisher asks for it

* every adapted vector, and 65,536 of the knowledge vectors, which are twelve times as wide; `audit` has read every float of both.

Vectors of two spaces are not compared: what needs both is unmeasured then, and says so. So is a statistic of fewer than
`min_sample` subjects or answers. A check without a measurement is passed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from kar.release.gate_vectors import judge_view
from kar.release.layout import SIDES, Side
from kar.release.likeness import Shared, shared
from kar.release.limits import Limits
from kar.release.reader import Release
from kar.release.verdicts import GateVerdict, at_least, at_most, unmeasured

FIRST = "no release is served yet to hold it against"


@dataclass(frozen=True)
class Refused:
    """What the quality gate did with one view's answers of a night.

    Args:
        judged_count: answers.
        shares: reason → share of them that was refused for it.
    """

    judged_count: int
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Uplift:
    """What the training run says of the knowledge.

    Args:
        low: the lowest end of the intervals that decide; None: the training has none.
        sentence: the verdict, in words.
    """

    is_positive: bool
    low: float | None
    sentence: str


@dataclass(frozen=True)
class Told:
    """What the publisher knows besides the two releases.

    Args:
        refused: view → tonight's answers; a view without new answers is absent.
        refused_before: view → the answers of the last night that had any.
        uplift: None: the publisher does not ask for one.
    """

    refused: Mapping[str, Refused] = field(default_factory=dict)
    refused_before: Mapping[str, Refused] = field(default_factory=dict)
    uplift: Uplift | None = None


def judge(new: Release, before: Release | None, limits: Limits, told: Told) -> tuple[GateVerdict, ...]:
    """Every check's verdict, in the order of the table above; about 2 s per million rows of 32 + 384 floats.

    Args:
        new: written and verified.
        before: the one that is served; None: there is none, and what compares is unmeasured.
    """
    both = {side: None if before is None else shared(new, before, side) for side in SIDES}
    found = [verdict for side in SIDES for verdict in _table(new, before, side, both[side], limits)]
    for side in SIDES:
        for view in new.views(side):
            found += judge_view(new, before, view, both[side], limits)
        found += _coverage(new, before, side, limits)
    return (*found, *_refusals(told, limits), _uplift(told.uplift))


def _table(new: Release, before: Release | None, side: Side, both: Shared | None, limits: Limits) -> Iterator[GateVerdict]:
    ids = new.ids(side)
    keys = f"keys {side}"
    is_key = not ids.null_count and pc.all(pc.less(ids.slice(0, max(len(ids) - 1, 0)), ids.slice(1)), min_count=0).as_py()
    if before is None or both is None:
        yield unmeasured(f"rows {side}", f"{len(ids)} {side}s; {FIRST}")
        yield unmeasured(keys, f"each {side} once; {FIRST}") if is_key else _no_key(keys, ids, limits)
        return
    had = len(before.ids(side))
    yield _rows(f"rows {side}", len(ids), had, limits)
    if not is_key:
        yield _no_key(keys, ids, limits)
    elif not had:
        yield unmeasured(keys, f"each {side} once; the last release has none")
    else:
        kept = 1 - both.lost_count / had
        yield at_least(
            keys, kept, limits.min_kept_share, f"share of the last release's {side}s that are still there, {both.lost_count} lost"
        )


def _rows(check: str, rows: int, had: int, limits: Limits) -> GateVerdict:
    if not had:
        return unmeasured(check, f"{rows} rows; the last release has none")
    share, what = rows / had, f"{rows} rows, {had} in the last release, as a share"
    is_less = share < 1
    return at_least(check, share, limits.min_rows_share, what) if is_less else at_most(check, share, limits.max_rows_share, what)


def _no_key(check: str, ids: pa.Array, limits: Limits) -> GateVerdict:
    repeated = len(ids) - pc.count_distinct(ids).as_py()
    what = f"{repeated} ids come again, {ids.null_count} are null" if repeated or ids.null_count else "the ids do not ascend"
    return GateVerdict(check, 0.0, limits.min_kept_share, False, what)


def _coverage(new: Release, before: Release | None, side: Side, limits: Limits) -> Iterator[GateVerdict]:
    views = new.views(side)
    for view in views:
        yield _covered(new, before, side, view, limits)
    for view in before.views(side) if before is not None else []:
        if view not in views:
            what = f"the view is gone; the last release covers {_share(before, side, view):.1%} of the {side}s" if before else ""
            yield GateVerdict(f"coverage {view}", 0.0, None, False, what)


def _covered(new: Release, before: Release | None, side: Side, view: str, limits: Limits) -> GateVerdict:
    check, floor, what = f"coverage {view}", limits.min_coverage, f"share of {len(new.ids(side))} {side}s with knowledge"
    if before is not None and view in before.views(side) and len(before.ids(side)) >= limits.min_sample:
        was = _share(before, side, view)
        floor = max(floor, was - limits.max_coverage_drop)
        what += f", {was:.5g} in the last release"
    return at_least(check, _share(new, side, view), floor, what)


def _share(release: Release, side: Side, view: str) -> float:
    is_missing = release.is_missing(side, view)
    return 1 - float(is_missing.mean()) if len(is_missing) else 0.0


def _refusals(told: Told, limits: Limits) -> Iterator[GateVerdict]:
    for view, tonight in sorted(told.refused.items()):
        if tonight.judged_count < limits.min_sample:
            yield unmeasured(f"rejected {view}", f"{tonight.judged_count} answers tonight, fewer than {limits.min_sample}")
            continue
        refused = sum(tonight.shares.values())
        yield at_most(f"rejected {view}", refused, limits.max_rejected_share, f"share of {tonight.judged_count} answers that were refused")
        yield _reasons(view, tonight, told.refused_before.get(view), limits)


def _reasons(view: str, tonight: Refused, before: Refused | None, limits: Limits) -> GateVerdict:
    check = f"reasons {view}"
    if before is None or before.judged_count < limits.min_sample:
        return unmeasured(check, f"the night before has fewer than {limits.min_sample} answers to hold tonight's against")
    rises = {reason: share - before.shares.get(reason, 0.0) for reason, share in sorted(tonight.shares.items())}
    reason = max(rises, key=lambda name: rises[name], default="")
    if not reason:
        return at_most(check, 0.0, limits.max_reason_rise, "no answer was refused; rise of any reason's share")
    was, now = before.shares.get(reason, 0.0), tonight.shares[reason]
    return at_most(check, rises[reason], limits.max_reason_rise, f"{reason}: {now:.1%} of the answers, {was:.1%} the night before; rise")


def _uplift(uplift: Uplift | None) -> GateVerdict:
    if uplift is None:
        return unmeasured("uplift", "features.require_uplift is off: the training run's verdict does not decide")
    return GateVerdict("uplift", uplift.low, 0.0, uplift.is_positive, uplift.sentence)
