"""report: one page that says whether the knowledge helped, and what it cost.

reads   interaction, history, item_profile, plan, request, knowledge, factor_knowledge, refused, pace, knowledge_vector, example, metric, comparison,
        calibration, epoch, gate_weight, view_use, release
writes  index.html beside the manifest; no table
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import page
from kar.page import Chosen, Facts
from kar.settings import Settings
from kar.store import Inputs, Manifest, Output


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    """Gather what the other stages left, and write the page."""
    facts = gather(inputs, settings)
    html = page.render(facts).encode()
    (out.folder / "index.html").write_bytes(html)
    verdict = page.judge(facts)
    out.record(page_bytes=len(html), verdict=verdict.kind, verdict_sentence=verdict.sentence)


def files(settings: Settings, inputs: Inputs) -> list[Path]:
    """The manifests: their figures are on the page, so a changed one makes a new page."""
    return [path for path in _manifest_paths(inputs).values() if path.is_file()]


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
    )


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
