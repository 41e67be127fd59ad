"""What the promotion gate asks of the vectors of one view; the table of checks is in `kar.release.gate`."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from kar.release import layout
from kar.release.layout import KINDS, Kind
from kar.release.likeness import SAMPLE, Shared, Texts, cosines, norms, spaced, texts
from kar.release.limits import Limits
from kar.release.reader import Release
from kar.release.stats import view_stats
from kar.release.verdicts import GateVerdict, at_least, at_most, unmeasured

_STATS_SAMPLE = 2_048


def judge_view(new: Release, before: Release | None, view: str, both: Shared | None, limits: Limits) -> list[GateVerdict]:
    """Every verdict on a view's vectors, of both kinds where it has both.

    Args:
        both: the subjects of the view's side that both releases know; None: there is no release before.
    """
    side = layout.side_of(view)
    kinds: list[Kind] = [kind for kind in KINDS if view in new.views(side, kind)]
    rows_N = np.flatnonzero(~new.is_missing(side, view))
    lengths = {kind: norms(new, view, kind, _asked(kind, rows_N)) for kind in kinds}
    earlier, why = _comparable(new, before, view)
    found = [_finite(new, view, lengths)]
    for kind in kinds:
        found += _norms(view, kind, lengths[kind], earlier, why, limits)
    for kind in kinds:
        found += _spread_out(new, view, kind, rows_N, earlier, why, limits)
    if earlier is None or both is None:
        return [*found, unmeasured(f"unchanged {view}", why), unmeasured(f"drift {view}", why)]
    told = texts(new, earlier, view, both)
    found += [_unchanged(new, earlier, view, kinds, both, told, limits)]
    return found + [_drift(new, earlier, view, kind, both, told, limits) for kind in kinds]


def _comparable(new: Release, before: Release | None, view: str) -> tuple[Release | None, str]:
    """The last release if its vectors of the view can be held against the new ones, else None and why not."""
    if before is None:
        return None, "no release is served yet to hold it against"
    if before.space_id != new.space_id:
        return None, f"another space than the last release's ({new.space_id}, {before.space_id}): their vectors are not compared"
    if view not in before.views(layout.side_of(view)):
        return None, "the last release has no such view"
    return before, ""


def _asked(kind: Kind, rows_N: np.ndarray) -> np.ndarray:
    """The rows that are looked at: every adapted vector, for these are what rankers read, and of the far wider knowledge vectors a sample
    (`audit` has read every float of both)."""
    return rows_N if kind == "adapted" else spaced(rows_N)


def _named(check: str, view: str, kind: Kind) -> str:
    return f"{check} {view}" + (" knowledge" if kind == "knowledge" else "")


def _finite(new: Release, view: str, lengths: dict[Kind, np.ndarray]) -> GateVerdict:
    bad = sum(int(np.isnan(length).sum()) for length in lengths.values())
    bad += sum(not np.isfinite(new.default(view, kind)).all() for kind in lengths)
    count = sum(len(length) for length in lengths.values())
    return at_most(f"finite {view}", float(bad), 0.0, f"vectors that are not finite, of {count} and the default")


def _norms(view: str, kind: Kind, lengths: np.ndarray, earlier: Release | None, why: str, limits: Limits) -> Iterator[GateVerdict]:
    change, spread = _named("norm", view, kind), _named("norm_spread", view, kind)
    known = lengths[np.isfinite(lengths)]
    if len(known) < limits.min_sample:
        few = f"{len(known)} vectors, fewer than {limits.min_sample}"
        yield unmeasured(change, few)
        yield unmeasured(spread, few)
        return
    mean = float(known.mean())
    median, longest = float(np.median(known)), float(known.max())
    times = longest / median if median else (math.inf if longest else 0.0)
    if earlier is None:
        yield unmeasured(change, why)
    else:
        rows = np.flatnonzero(~earlier.is_missing(layout.side_of(view), view))
        yield _norm_change(change, mean, norms(earlier, view, kind, spaced(rows)), limits)
    yield at_most(spread, times, limits.max_norm_spread, f"longest of {len(known)} vectors, in median lengths of {median:.4g}")


def _norm_change(check: str, mean: float, before: np.ndarray, limits: Limits) -> GateVerdict:
    known = before[np.isfinite(before)]
    if len(known) < limits.min_sample or not known.mean():
        return unmeasured(check, f"{len(known)} vectors in the last release, fewer than {limits.min_sample}")
    was = float(known.mean())
    return at_most(check, abs(mean - was) / was, limits.max_norm_change, f"mean length {mean:.4g}, {was:.4g} in the last release; change")


def _spread_out(
    new: Release, view: str, kind: Kind, rows_N: np.ndarray, earlier: Release | None, why: str, limits: Limits
) -> Iterator[GateVerdict]:
    """Effective rank and mean cosine of different subjects."""
    names = [_named(check, view, kind) for check in ("effective_rank", "collapse")]
    found = _figures(new, view, kind, rows_N, limits)
    if found is None:
        few = f"fewer than {limits.min_sample} finite vectors"
        yield from (unmeasured(name, few) for name in names)
        return
    rank, cosine = found
    floor, beside = limits.min_effective_rank, f" ({why})" if earlier is None else ""
    if earlier is not None:
        rows = np.flatnonzero(~earlier.is_missing(layout.side_of(view), view))
        if (was := _figures(earlier, view, kind, rows, limits)) is not None:
            floor, beside = max(floor, limits.min_effective_rank_share * was[0]), f", {was[0]:.5g} in the last release"
    yield at_least(names[0], rank, floor, f"effective rank{beside}")
    yield at_most(names[1], cosine, limits.max_mean_cosine, "mean cosine of two different subjects")


def _figures(release: Release, view: str, kind: Kind, rows_N: np.ndarray, limits: Limits) -> tuple[float, float] | None:
    vectors_NW = release.gather(view, spaced(rows_N, _STATS_SAMPLE), kind)
    vectors_NW = vectors_NW[np.isfinite(vectors_NW).all(axis=1)]
    if len(vectors_NW) < max(limits.min_sample, 2):
        return None
    found = view_stats(lambda rows: vectors_NW[rows], np.zeros(len(vectors_NW), bool))
    return float(found["effective_rank"] or 0.0), float(found["cosine_mean"] or 0.0)


def _unchanged(new: Release, earlier: Release, view: str, kinds: list[Kind], both: Shared, told: Texts, limits: Limits) -> GateVerdict:
    check = f"unchanged {view}"
    if new.is_pooled(view):
        return unmeasured(check, "means over histories, which move with each event")
    same = np.flatnonzero(told.is_same_N)
    if not len(same):
        return unmeasured(check, "no subject has the text of the last release")
    found = cosines(new, earlier, view, "adapted", both.new_N[same], both.before_N[same])
    if "knowledge" in kinds:
        some = _asked("knowledge", np.arange(len(same)))
        beside = cosines(new, earlier, view, "knowledge", both.new_N[same[some]], both.before_N[same[some]])
        found[some] = np.minimum(found[some], beside)
    worst = int(found.argmin())
    moved = int((found < limits.min_unchanged_cosine).sum())
    what = f"lowest cosine to the last release of {len(same)} subjects whose text is the same"
    if moved:  # an id is written into manifests only where somebody must look at it
        what += f" ({both.side} {new.ids(both.side)[int(both.new_N[same[worst]])].as_py()}; {moved} moved)"
    return at_least(check, float(found[worst]), limits.min_unchanged_cosine, what)


def _drift(new: Release, earlier: Release, view: str, kind: Kind, both: Shared, told: Texts, limits: Limits) -> GateVerdict:
    check = _named("drift", view, kind)
    changed = told.changed()
    if len(changed) < limits.min_sample:
        return unmeasured(check, f"the text of {len(changed)} subjects changed, fewer than {limits.min_sample}")
    sample = spaced(changed, SAMPLE)
    found = cosines(new, earlier, view, kind, both.new_N[sample], both.before_N[sample])
    what = f"mean cosine to the last release of {len(changed)} subjects whose {'mean' if new.is_pooled(view) else 'text'} changed"
    return at_least(check, float(found.mean()), limits.min_changed_cosine, what)
