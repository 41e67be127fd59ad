"""report: one page that says whether the knowledge helped, and what it cost.

reads   interaction, history, item_profile, plan, request, knowledge, factor_knowledge, refused, pace, knowledge_vector, example, metric, comparison,
        calibration, epoch, gate_weight, view_use, study, release
writes  index.html beside the manifest; no table
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import page
from kar.errors import ReleaseError
from kar.page import Chosen, Facts
from kar.page.drift import Drift
from kar.page.nights import MOST as NIGHTS
from kar.release.reader import open_release
from kar.release.remote import service
from kar.release.shelf import Service
from kar.settings import Settings
from kar.store import Inputs, Manifest, Output, trainings
from kar.tables import whole_view

_USERS_MET = 200_000


def facts(_settings: Settings, inputs: Inputs) -> dict[str, object]:
    """Since when the release was served; a night whose release is promoted after its page was made gets a new page, once.

    What is served now is not told here: it changes every night, and no page of a past night is made again for that.
    """
    since = _service(inputs).since
    return {"served_since": since.isoformat() if since else ""}


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    """Gather what the other stages left, and write the page."""
    facts = gather(inputs, settings)
    html = page.render(facts).encode()
    (out.folder / "index.html").write_bytes(html)
    verdict = page.judge(facts)
    out.record(page_bytes=len(html), verdict=verdict.kind, verdict_sentence=verdict.sentence)


def files(settings: Settings, inputs: Inputs) -> list[Path]:
    """The manifests: their figures are on the page, so a changed one makes a new page; and what somebody decided about a training."""
    held = [path for p in trainings.newer_held_back(inputs.home, inputs.date) for path in (p.manifest_path, trainings.word_path(p))]
    used = inputs.partitions["adaptor", "metric"]
    word = [trainings.word_path(used)] if used is not None else []
    return [path for path in dict.fromkeys([*_manifest_paths(inputs).values(), *_night_paths(inputs), *held, *word]) if path.is_file()]


def gather(inputs: Inputs, settings: Settings) -> Facts:
    """Read the columns that the page counts, and whole rows of the few subjects that it prints."""
    users = _columns(inputs, "history", ["subject_id"]).column("subject_id").to_pylist()
    items = _columns(inputs, "item_profile", ["subject_id"]).column("subject_id").to_pylist()
    knowledge = _columns(
        inputs,
        "knowledge",
        ["view", "subject_id", "origin", "model", "model_revision", "template_version", "prompt_tokens", "completion_tokens"],
    ).append_column("words", _words(inputs))
    return Facts(
        date=inputs.date,
        as_of=inputs.as_of,
        settings=settings,
        published=inputs.home.releases_at,
        manifests={stage: Manifest.read(path) for stage, path in _manifest_paths(inputs).items()},
        metric=inputs.table("metric"),
        comparison=inputs.table("comparison"),
        calibration=inputs.table("calibration"),
        gate_weight=inputs.table("gate_weight"),
        view_use=inputs.table("view_use"),
        study=inputs.table("study"),
        epoch=inputs.table("epoch"),
        example=_columns(inputs, "example", ["split", "label", "user_id", "has_user_knowledge", "has_item_knowledge"]),
        plan=_columns(inputs, "plan", ["view", "subject_id", "decision", "template_version", "history_shown", "history_dropped"]),
        knowledge=knowledge,
        refused=inputs.table("refused"),
        pace=inputs.table("pace"),
        knowledge_vector=_columns(inputs, "knowledge_vector", ["view", "n_tokens", "truncated"]),
        release=inputs.table("release"),
        user_count=len(users),
        item_count=len(items),
        chosen=_chosen(inputs, settings, users, items, knowledge),
        by_factor=_by_factor(inputs, knowledge),
        drift=_drift(inputs),
        nights=page.nights(Manifest.read(path) for path in _night_paths(inputs)),
        item_map=_item_map(inputs, settings),
        service=_service(inputs),
        trainings=_trainings(inputs),
    )


def _service(inputs: Inputs) -> Service:
    """What CURRENT says of this date's release now. Where it cannot be asked, nothing is known."""
    ids = inputs.table("release").column("release_id").to_pylist()
    try:
        return service(inputs.home.releases_at, ids[0]) if ids else Service()
    except ReleaseError:
        return Service()


def _trainings(inputs: Inputs) -> tuple[str, ...]:
    """Sentences about trainings that are held back, and about one that is used although its gate said no."""
    told = trainings.told_of_held_back(inputs.home, inputs.date)
    used = inputs.partitions["adaptor", "metric"]
    word = trainings.word_on(used) if used is not None else None
    if used is not None and word is not None and (failed := trainings.failed_checks(used)):
        because = f" ({word.why})" if word.why else ""
        told.append(f"the training of {used.date} is used although its gate said no to {', '.join(failed)}: so it was decided{because}")
    return tuple(told)


def _drift(inputs: Inputs) -> Drift | None:
    """From the release that was served before to this date's; None if either is not there (any more)."""
    ids = inputs.table("release").column("release_id").to_pylist()
    folder = f"{inputs.home.releases_at}/releases"
    try:
        new = open_release(f"{folder}/{ids[0]}") if ids else None
        if new is None or not new.manifest["parent"]:
            return None
        return page.measure(new, open_release(f"{folder}/{new.manifest['parent']}"))
    except ReleaseError:
        return None


def _night_paths(inputs: Inputs) -> list[Path]:
    """The manifests of the knowledge stage up to this date, the newest of them."""
    made = [partition for partition in inputs.home.partitions("knowledge") if partition.date <= inputs.date]
    return [partition.manifest_path for partition in made[-NIGHTS:]]


def _item_map(inputs: Inputs, settings: Settings) -> page.ItemMap:
    """The most popular items that have a vector in the first view of items, with what is written about them and who met them."""
    view = next(iter(settings.adaptor.item_views), "")
    is_view = pc.field("view") == view
    known = pq.read_table(inputs.path("knowledge_vector"), columns=["subject_id"], filters=is_view).column("subject_id")
    profile = _columns(inputs, "item_profile", ["subject_id", "title", "event_count"])
    profile = profile.filter(pc.is_in(profile.column("subject_id"), value_set=known.combine_chunks()))
    shown = profile.sort_by([("event_count", "descending"), ("subject_id", "ascending")]).slice(0, page.MAPPED_ITEMS)
    subjects = shown.column("subject_id").combine_chunks()
    if not len(subjects):
        return page.ItemMap()
    its = pc.field("subject_id").isin(subjects)
    vectors = _in_order(pq.read_table(inputs.path("knowledge_vector"), columns=["subject_id", "vector"], filters=is_view & its), subjects)
    is_told = (pc.field("view") == whole_view(view)) & its
    told = _in_order(pq.read_table(inputs.path("knowledge"), columns=["subject_id", "text"], filters=is_told), subjects)
    column = vectors.column("vector").combine_chunks()
    return page.item_map(
        view,
        len(known),
        column.flatten().to_numpy().reshape(len(column), -1),
        shown.column("event_count").to_numpy(),
        [name or f"Item {subject}" for name, subject in zip(shown.column("title").to_pylist(), subjects.to_pylist(), strict=True)],
        [text or "" for text in told.column("text").to_pylist()],
        _met(inputs, subjects),
    )


def _in_order(rows: pa.Table, subjects: pa.Array) -> pa.Table:
    """One row for each subject, in their order; null where there is none."""
    return rows.take(pc.index_in(subjects, value_set=rows.column("subject_id").combine_chunks()))


def _met(inputs: Inputs, subjects: pa.Array) -> np.ndarray:
    """How much the same users met two of these items, by the newest histories of at most so many users."""
    users, items, count = [], [], 0
    for part in inputs.stream("history", ["item_ids"]):
        lists = part.column("item_ids").combine_chunks()
        places = pc.index_in(lists.flatten().cast(pa.string()), value_set=subjects)
        is_shown = places.is_valid().to_numpy(zero_copy_only=False)
        users.append(pc.list_parent_indices(lists).to_numpy()[is_shown] + count)
        items.append(places.drop_null().to_numpy())
        count += part.num_rows
        if count >= _USERS_MET:
            break
    none = np.zeros(0, np.int64)
    return page.met_together(np.concatenate([none, *users]), np.concatenate([none, *items]), len(subjects))


def _by_factor(inputs: Inputs, knowledge: pa.Table) -> page.ByFactor:
    """The texts and vectors of single factors, counted as they stream past."""
    told = page.tally(inputs.stream("factor_knowledge", ["view", "factor", "text"]))
    if not told:
        return page.ByFactor()
    counted = knowledge.group_by("view").aggregate([([], "count_all")]).to_pylist()
    middle = page.centres(inputs.stream("knowledge_vector", ["view", "vector"]))
    return page.by_factor(told, {row["view"]: row["count_all"] for row in counted}, middle)


def _chosen(inputs: Inputs, settings: Settings, users: list[str], items: list[str], knowledge: pa.Table) -> Chosen:
    count, seed = settings.report.reading_count, settings.report.seed
    chosen_users = page.choose(users, _known(knowledge, "user."), count, seed)
    chosen_items = page.choose(items, _known(knowledge, "item."), count, seed)
    return Chosen(
        history=_rows(inputs, "history", chosen_users),
        item_profile=_rows(inputs, "item_profile", chosen_items),
        plan=_both(inputs, "plan", chosen_users, chosen_items),
        request=_both(inputs, "request", chosen_users, chosen_items),
        knowledge=_both(inputs, "knowledge", chosen_users, chosen_items),
        refused=_both(inputs, "refused", chosen_users, chosen_items),
    )


def _known(knowledge: pa.Table, side: str) -> set[str]:
    return set(knowledge.filter(pc.starts_with(knowledge.column("view"), side)).column("subject_id").to_pylist())


def _rows(inputs: Inputs, table: str, subjects: list[str]) -> pa.Table:
    return pq.read_table(inputs.path(table), filters=pc.field("subject_id").isin(pa.array(subjects, pa.string())))


def _both(inputs: Inputs, table: str, users: list[str], items: list[str]) -> pa.Table:
    """Rows of the chosen of either side; a user and an item of one id are kept apart by the view's side."""
    sides = [
        pc.starts_with(pc.field("view"), side) & pc.field("subject_id").isin(pa.array(ids, pa.string()))
        for side, ids in (("user.", users), ("item.", items))
    ]
    return pq.read_table(inputs.path(table), filters=sides[0] | sides[1])


def _words(inputs: Inputs) -> pa.ChunkedArray:
    """int32: words of each text of table knowledge, without holding the texts."""
    counts = [pc.count_substring_regex(part.column("text"), r"\S+").combine_chunks() for part in inputs.stream("knowledge", ["text"])]
    return pa.chunked_array(counts, pa.int32())


def _columns(inputs: Inputs, table: str, columns: list[str]) -> pa.Table:
    return pq.read_table(inputs.path(table), columns=columns)


def _manifest_paths(inputs: Inputs) -> dict[str, Path]:
    found = {stage: partition for (stage, _), partition in inputs.partitions.items() if partition is not None}
    return {stage: partition.manifest_path for stage, partition in found.items()}
