"""vectors: encode each accepted text once; one vector per view and subject, views are never joined into one text.

reads   knowledge, factor_knowledge, history, item_profile, knowledge_vector (previous)
writes  knowledge_vector
rejects empty_text   nothing to encode

Beside the knowledge, for the text arm: `item.raw`, the item's own text, and `user.raw`, the titles and stars of the
history, newest kept, as many as the encoder can read. A vector is taken over from the partition before, or from the one
that this run replaces, where text and encoder are the same.

Of the views that `vectors.per_factor` names, each factor's text is encoded too, as a view of its own: `item.facts:mood`. A
subject of which a factor says nothing has no vector there.

With `vectors.controls` every view of knowledge is encoded once more without its names (`item.facts@masked`) or as random words
(`item.facts@noise`), for the arms of those names; see `kar.text.controls`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import log
from kar.errors import CheckFailed, ModelError
from kar.release.layout import whole
from kar.settings import Settings, VectorsSettings
from kar.settings.schema import Control
from kar.store import Inputs, Output, text_sha
from kar.text.controls import Mask, Row, noise
from kar.text.encoders import Encoded, Encoder, encoder_files, load_encoder
from kar.text.factors import FILE, load_factors
from kar.text.lines import history_lines

_SEPARATOR = "; "
_EXAMPLES = 20


@dataclass(frozen=True)
class Texts:
    """What to encode: three parallel lists."""

    views: list[str]
    subjects: list[str]
    texts: list[str]

    def add(self, view: str, subjects: list[str], texts: list[str]) -> None:
        self.views.extend([view] * len(subjects))
        self.subjects.extend(subjects)
        self.texts.extend(texts)

    def split_empty(self) -> tuple[Texts, list[dict[str, Any]]]:
        """Those with text, and the others as rows to show."""
        full = [place for place, text in enumerate(self.texts) if text.strip()]
        kept = Texts([self.views[p] for p in full], [self.subjects[p] for p in full], [self.texts[p] for p in full])
        empty = [{"view": v, "subject_id": s} for v, s, t in zip(self.views, self.subjects, self.texts, strict=True) if not t.strip()]
        return kept, empty


def files(settings: Settings, _inputs: Inputs) -> list[Path]:
    """The encoder's weights and vocabulary; where names are masked, the file that says what an item is called."""
    named = _factors_path(settings)
    return [*encoder_files(settings.vectors.encoder), *([named] if "masked" in settings.vectors.controls and named.is_file() else [])]


def _factors_path(settings: Settings) -> Path:
    return Path(settings.prompts.folder) / settings.scenario.domain / FILE


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    encoder = load_encoder(settings.vectors.encoder, settings.vectors.batch_size, settings.vectors.precision)
    gathered = gather(inputs.table("knowledge"), inputs.table("history"), inputs.table("item_profile"), encoder, settings.vectors)
    if settings.vectors.per_factor:
        add_factors(gathered, inputs.table("factor_knowledge"), settings.vectors.per_factor)
    controls = _add_controls(gathered, inputs, settings)
    texts, empty = gathered.split_empty()
    table, figures = vectorise(texts, encoder, _earlier(inputs))
    for sentence in judge(figures["views"], settings.vectors.max_truncated_share):
        out.warn(sentence)
    out.write("knowledge_vector", table)
    out.reject("empty_text", len(empty), empty[:_EXAMPLES])
    out.record(**figures, **({"controls": controls} if controls else {}))


def _add_controls(texts: Texts, inputs: Inputs, settings: Settings) -> dict[str, Any]:
    if not settings.vectors.controls:
        return {}
    factors = Path(settings.prompts.folder)
    noun = load_factors(factors, settings.scenario.domain).item.singular if _factors_path(settings).is_file() else "item"
    return add_controls(texts, settings.vectors.controls, titles(inputs.table("item_profile")), seen_items(inputs.table("knowledge")), noun)


def titles(item_profile: pa.Table) -> dict[str, str]:
    """Item → title, of those that have one."""
    rows = zip(item_profile.column("subject_id").to_pylist(), item_profile.column("title").to_pylist(), strict=True)
    return {subject: title for subject, title in rows if title}


def seen_items(knowledge: pa.Table) -> dict[tuple[str, str], list[str]]:
    """(view, subject) → items that the prompt of the text showed."""
    columns = [knowledge.column(name).to_pylist() for name in ("view", "subject_id", "evidence_items")]
    return {(view, subject): items for view, subject, items in zip(*columns, strict=True)}


def _earlier(inputs: Inputs) -> list[pa.Table]:
    """Vectors made before: the partition before the date, and the date's own that this run replaces.

    The second is no declared input, for it cannot change the result: a vector is a function of text and encoder.
    """
    before = inputs.maybe_table("knowledge_vector")
    own = inputs.home.partition("vectors", inputs.date)
    found = [before] if before is not None else []
    return [*found, pq.read_table(own.table("knowledge_vector"))] if own.exists() else found


def gather(knowledge: pa.Table, history: pa.Table, item_profile: pa.Table, encoder: Encoder, settings: VectorsSettings) -> Texts:
    """Every text to encode, in no particular order; empty ones included."""
    texts = Texts(knowledge.column("view").to_pylist(), knowledge.column("subject_id").to_pylist(), knowledge.column("text").to_pylist())
    if settings.raw_views:
        texts.add("item.raw", item_profile.column("subject_id").to_pylist(), item_profile.column("text").to_pylist())
        texts.add("user.raw", history.column("subject_id").to_pylist(), user_raw(history, encoder))
    return texts


def add_factors(texts: Texts, factor_knowledge: pa.Table, views: list[str]) -> None:
    """The factors' own texts of these views, each as a view named `view:factor`; texts about all factors are no factor's."""
    is_own = pc.and_(
        pc.is_in(factor_knowledge.column("view"), value_set=pa.array(views, pa.string())),
        pc.not_equal(factor_knowledge.column("factor"), ""),
    )
    rows = factor_knowledge.filter(is_own)
    names = pc.binary_join_element_wise(rows.column("view"), rows.column("factor"), ":")
    texts.views.extend(names.to_pylist())
    texts.subjects.extend(rows.column("subject_id").to_pylist())
    texts.texts.extend(rows.column("text").to_pylist())


def add_controls(
    texts: Texts, controls: list[Control], title_of: dict[str, str], seen: dict[tuple[str, str], list[str]], noun: str
) -> dict[str, Any]:
    """The control texts of every view of knowledge, each as a view named `view@control`.

    Args:
        title_of: item → title.
        seen: (whole view, subject) → items that its prompt showed.
        noun: what an item is called.

    Returns:
        View → figures: how many titles and names were replaced, in how many texts, and the terms that stayed; or the words drawn.
    """
    figures: dict[str, Any] = {}
    for view in [view for view in dict.fromkeys(texts.views) if not view.endswith(".raw")]:
        places = [place for place, other in enumerate(texts.views) if other == view]
        subjects, own = [texts.subjects[place] for place in places], [texts.texts[place] for place in places]
        for control in controls:
            name = f"{view}@{control}"
            if control == "noise":
                made = noise(view, subjects, own)
                figures[name] = {"texts": len(made), "words": sum(len(text.split()) for text in made)}
            else:
                made, figures[name] = _masked(view, subjects, own, title_of, seen, noun)
            texts.add(name, subjects, made)
    return figures


def _masked(
    view: str, subjects: list[str], own: list[str], title_of: dict[str, str], seen: dict[tuple[str, str], list[str]], noun: str
) -> tuple[list[str], dict[str, Any]]:
    """A view's texts without names. A text about an item may speak of that item, one about a user of the items that its prompt showed."""
    if view.startswith("item."):
        rows = [Row(text, title_of.get(subject)) for subject, text in zip(subjects, own, strict=True)]
    else:
        shown = [seen.get((whole(view), subject), []) for subject in subjects]
        met = [tuple(title_of[item] for item in items if item in title_of) for items in shown]
        rows = [Row(text, None, titles) for text, titles in zip(own, met, strict=True)]
    mask = Mask(rows, title_of.values(), noun)
    made = list(mask.apply())
    figures = {
        "texts": len(made),
        "titles_replaced": sum(found.titles for found in made),
        "names_replaced": sum(found.names for found in made),
        "texts_changed": sum(bool(found.titles or found.names) for found in made),
        "terms_kept": mask.terms,
    }
    return [found.text for found in made], figures


def user_raw(history: pa.Table, encoder: Encoder) -> list[str]:
    """Each user's titles and stars, oldest first, the newest kept that the encoder can read as a whole."""
    lines = history_lines(history, _event, encoder.count, _SEPARATOR)
    first_U = lines.fit(encoder.max_tokens - encoder.special_tokens)
    return [lines.text(user, first, _SEPARATOR) for user, first in enumerate(first_U.tolist())]


def _event(title: str, rating: float) -> str:
    return title if rating != rating else f"{title}, {rating:g} stars"


def vectorise(texts: Texts, encoder: Encoder, earlier: list[pa.Table]) -> tuple[pa.Table, dict[str, Any]]:
    """Encode each distinct text that no earlier table holds a vector of.

    Returns:
        The rows of knowledge_vector, and figures: encoded, reused, seconds, texts_per_s, tokens, and per view the texts
        and the share that the encoder's limit cut.
    """
    shas = [text_sha(text) for text in texts.texts]
    place_of = {sha: place for place, sha in enumerate(dict.fromkeys(shas))}
    made = Encoded(
        np.empty((len(place_of), encoder.dimension), np.float32), np.zeros(len(place_of), np.int32), np.zeros(len(place_of), bool)
    )
    is_reused = _take_over(made, place_of, encoder, earlier)
    text_of = dict(zip(shas, texts.texts, strict=True))
    new = [sha for sha, place in place_of.items() if not is_reused[place]]
    seconds = _encode(made, [place_of[sha] for sha in new], [text_of[sha] for sha in new], encoder)
    rows = np.array([place_of[sha] for sha in shas], np.int64)
    table = pa.table(
        {
            "view": pa.array(texts.views, pa.string()),
            "subject_id": pa.array(texts.subjects, pa.string()),
            "text_sha": pa.array(shas, pa.string()),
            "encoder_id": pa.array([encoder.id] * len(shas), pa.string()),
            "n_tokens": made.n_tokens[rows],
            "truncated": made.truncated[rows],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(made.vectors[rows].reshape(-1)), encoder.dimension),
        }
    )
    figures = {
        "encoder_id": encoder.id,
        "encoded": len(new),
        "reused": int(is_reused.sum()),
        "encode_seconds": round(seconds, 3),
        "texts_per_s": round(len(new) / seconds, 1) if new else None,
        "views": _per_view(texts.views, made, rows),
    }
    return table, figures


def _take_over(made: Encoded, place_of: dict[str, int], encoder: Encoder, earlier: list[pa.Table]) -> np.ndarray:
    """Copy vectors of equal text and encoder into their places. Returns bool [distinct texts]: which were."""
    is_reused = np.zeros(len(place_of), bool)
    for table in earlier:
        known = table.filter(pc.equal(table.column("encoder_id"), encoder.id)).combine_chunks()
        places = np.array([place_of.get(sha, -1) for sha in known.column("text_sha").to_pylist()], np.int64)
        rows = np.flatnonzero(places >= 0)
        if not len(rows):
            continue
        column = known.column("vector").combine_chunks().take(pa.array(rows))
        made.vectors[places[rows]] = column.flatten().to_numpy().reshape(len(rows), encoder.dimension)
        made.n_tokens[places[rows]] = known.column("n_tokens").to_numpy()[rows]
        made.truncated[places[rows]] = known.column("truncated").to_numpy()[rows]
        is_reused[places[rows]] = True
    return is_reused


def _encode(made: Encoded, places: list[int], texts: list[str], encoder: Encoder) -> float:
    """Encode into their places. Returns the seconds it took. Raises ModelError for a vector that is not finite."""
    started = time.perf_counter()
    if texts:
        with log.Progress("texts encoded", len(texts)) as progress:
            fresh = encoder.encode(texts, progress.advance)
        if not np.isfinite(fresh.vectors).all():
            raise ModelError(f"the encoder {encoder.id} gave vectors that are not finite", "name another one in vectors.encoder")
        made.vectors[places], made.n_tokens[places], made.truncated[places] = fresh.vectors, fresh.n_tokens, fresh.truncated
    return max(time.perf_counter() - started, 1e-9)


def _per_view(views: list[str], made: Encoded, rows: np.ndarray) -> dict[str, dict[str, float]]:
    names, view = np.unique(np.array(views, object).astype(str), return_inverse=True)
    found = {}
    for place, name in enumerate(names.tolist()):
        chosen = rows[view == place]
        found[name] = {
            "texts": len(chosen),
            "truncated_share": round(float(made.truncated[chosen].mean()), 6),
            "mean_tokens": round(float(made.n_tokens[chosen].mean()), 1),
        }
    return found


def judge(views: dict[str, dict[str, float]], most_truncated: float) -> list[str]:
    """Sentences about raw and control views that were cut too often; a view of knowledge that was is an error.

    Raises:
        CheckFailed: more than `most_truncated` of a knowledge view's texts are longer than the encoder reads.
    """
    sentences = []
    for view, figures in views.items():
        share = figures["truncated_share"]
        if share <= most_truncated:
            continue
        sentence = f"{share:.1%} of the texts of {view} are longer than the encoder reads; allowed are {most_truncated:.1%}"
        if not view.endswith(".raw") and "@" not in view:
            raise CheckFailed(
                sentence,
                "ask for shorter answers in the template, take an encoder with a larger limit, or raise vectors.max_truncated_share",
            )
        sentences.append(sentence)
    return sentences
