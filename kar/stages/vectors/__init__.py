"""vectors: encode each accepted text once; one vector per view and subject, views are never joined into one text.

reads   knowledge, factor_knowledge, history, item_profile, knowledge_vector (previous)
writes  knowledge_vector, item_edge
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

import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kar import log
from kar.errors import CheckFailed, ModelError
from kar.settings import Settings, VectorsSettings
from kar.settings.schema import Control
from kar.stages.vectors import edges
from kar.store import Inputs, Output
from kar.tables import whole_view
from kar.text.controls import Mask, Row, noise
from kar.text.encoders import Encoded, Encoder, encoder_files, load_encoder
from kar.text.factors import FILE, load_factors
from kar.text.lines import history_lines

_SEPARATOR = "; "
_EXAMPLES = 20
_SHOWN = "^[!-~]"  # what begins so is not blank
_HASHED = 8_192
_READ = 8_192
_KEYS = ["text_sha", "encoder_id"]
Parts = Callable[[list[str]], Iterable[pa.Table]]
"""The named columns of a table knowledge_vector, in parts."""
Column: TypeAlias = list[str] | pa.Array | pa.ChunkedArray


class Texts:
    """What to encode, as columns: of the millions of texts of a night few are new, and only those need to be Python's.

    Args:
        views, subjects, texts: one of each a row, lists or Arrow's.
    """

    def __init__(self, views: Column, subjects: Column, texts: Column) -> None:
        columns = (("view", views), ("subject_id", subjects), ("text", texts))
        self.table = pa.table({n: v if isinstance(v, pa.Array | pa.ChunkedArray) else pa.array(v, pa.string()) for n, v in columns})

    @property
    def views(self) -> list[str]:
        """As `subjects` and `texts`: one a row."""
        return self._list("view")

    @property
    def subjects(self) -> list[str]:
        return self._list("subject_id")

    @property
    def texts(self) -> list[str]:
        return self._list("text")

    def _list(self, name: str) -> list[str]:
        values: list[str] = self.table.column(name).to_pylist()
        return values

    def add(self, view: str, subjects: Column, texts: Column) -> None:
        self.extend(Texts(pa.repeat(view, len(subjects)), subjects, texts))

    def extend(self, more: Texts) -> None:
        self.table = pa.concat_tables([self.table, more.table])

    def split_empty(self) -> tuple[Texts, list[dict[str, Any]]]:
        """Those with text, and the others as rows to show."""
        text = self.table.column("text")
        is_full: np.ndarray = np.asarray(pc.match_substring_regex(text, _SHOWN)).astype(bool)
        for place in np.flatnonzero(~is_full).tolist():
            is_full[place] = bool(text[place].as_py().strip())
        if is_full.all():
            return self, []
        empty = self.table.filter(pa.array(~is_full)).select(["view", "subject_id"]).to_pylist()
        full = self.table.filter(pa.array(is_full))
        return Texts(*(full.column(name) for name in ("view", "subject_id", "text"))), empty


def files(settings: Settings, _inputs: Inputs) -> list[Path]:
    """The encoder's weights and vocabulary; where names are masked, the file that says what an item is called."""
    named = _factors_path(settings)
    return [*encoder_files(settings.vectors.encoder), *([named] if "masked" in settings.vectors.controls and named.is_file() else [])]


def _factors_path(settings: Settings) -> Path:
    return Path(settings.prompts.folder) / settings.scenario.domain / FILE


def run(inputs: Inputs, out: Output, settings: Settings) -> None:
    encoder = load_encoder(settings.vectors.encoder, settings.vectors.batch_size, settings.vectors.precision)
    knowledge = inputs.table("knowledge", columns=["view", "subject_id", "text"])
    history = inputs.table("history", columns=["subject_id", "titles", "ratings"])
    gathered = gather(knowledge, history, inputs.table("item_profile", columns=["subject_id", "text"]), encoder, settings.vectors)
    if settings.vectors.per_factor:
        add_factors(gathered, inputs.table("factor_knowledge"), settings.vectors.per_factor)
    controls = _add_controls(gathered, inputs, settings)
    texts, empty = gathered.split_empty()
    table, figures = vectorise(texts, encoder, _earlier(inputs))
    for sentence in judge(figures["views"], settings.vectors.max_truncated_share):
        out.warn(sentence)
    out.write("knowledge_vector", table)
    out.write("item_edge", edges.item_edges(table, inputs, settings.vectors.edges))
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
    """(view, subject) → items that the prompt of the text showed: of a user's history, or beside the item that it is about."""
    columns = [knowledge.column(name).to_pylist() for name in ("view", "subject_id", "evidence_items", "neighbour_items")]
    return {(view, subject): near if view.startswith("item.") else items for view, subject, items, near in zip(*columns, strict=True)}


def _earlier(inputs: Inputs) -> list[Parts]:
    """Vectors made before: the partition before the date, and the date's own that this run replaces.

    The second is no declared input, for it cannot change the result: a vector is a function of text and encoder.
    """
    before, own = inputs.path("knowledge_vector"), inputs.home.partition("vectors", inputs.date)
    paths = [*([before] if before is not None else []), *([own.table("knowledge_vector")] if own.exists() else [])]
    return [functools.partial(_read, path) for path in paths]


def _read(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(_READ, columns=columns):
            yield pa.Table.from_batches([batch])


def gather(knowledge: pa.Table, history: pa.Table, item_profile: pa.Table, encoder: Encoder, settings: VectorsSettings) -> Texts:
    """Every text to encode, in no particular order; empty ones included."""
    texts = Texts(*(knowledge.column(name) for name in ("view", "subject_id", "text")))
    if settings.raw_views:
        texts.add("item.raw", item_profile.column("subject_id"), item_profile.column("text"))
        texts.add("user.raw", history.column("subject_id"), user_raw(history, encoder))
    return texts


def add_factors(texts: Texts, factor_knowledge: pa.Table, views: list[str]) -> None:
    """The factors' own texts of these views, each as a view named `view:factor`; texts about all factors are no factor's."""
    is_own = pc.and_(
        pc.is_in(factor_knowledge.column("view"), value_set=pa.array(views, pa.string())),
        pc.not_equal(factor_knowledge.column("factor"), ""),
    )
    rows = factor_knowledge.filter(is_own)
    names = pc.binary_join_element_wise(rows.column("view"), rows.column("factor"), ":")
    texts.extend(Texts(names, rows.column("subject_id"), rows.column("text")))


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
    before = texts.table
    for view in [view for view in pc.unique(before.column("view")).to_pylist() if not view.endswith(".raw")]:
        rows = before.filter(pc.equal(before.column("view"), view))
        subjects, own = rows.column("subject_id").to_pylist(), rows.column("text").to_pylist()
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
    """A view's texts without names. A text may speak of the item that it is about, and of those that its prompt showed."""
    shown = [seen.get((whole_view(view), subject), []) for subject in subjects]
    met = [tuple(title_of[item] for item in items if item in title_of) for items in shown]
    about = [title_of.get(subject) if view.startswith("item.") else None for subject in subjects]
    rows = [Row(*row) for row in zip(own, about, met, strict=True)]
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


def user_raw(history: pa.Table, encoder: Encoder) -> pa.ChunkedArray:
    """Each user's titles and stars, oldest first, the newest kept that the encoder can read as a whole."""
    lines = history_lines(history, _event, encoder.count, _SEPARATOR)
    return lines.texts(lines.fit(encoder.max_tokens - encoder.special_tokens), _SEPARATOR)


def _event(title: str, rating: float) -> str:
    return title if rating != rating else f"{title}, {rating:g} stars"


def vectorise(texts: Texts, encoder: Encoder, earlier: list[Parts]) -> tuple[pa.Table, dict[str, Any]]:
    """Encode each distinct text that no earlier table holds a vector of.

    Args:
        earlier: tables knowledge_vector; of the same text in several the last one counts.

    Returns:
        The rows of knowledge_vector, in key order, and figures: encoded, reused, seconds, texts_per_s, tokens, and per view the
        texts and the share that the encoder's limit cut.
    """
    shas = _shas(texts.table.column("text"))
    coded = shas.dictionary_encode()
    distinct, place = coded.dictionary, coded.indices.to_numpy()
    source, row = _sources(distinct, encoder, earlier)
    new = np.flatnonzero(source < 0)
    fresh, seconds = _encoded(_first_of_each(texts.table.column("text"), place, new, len(distinct)), encoder)
    source[new], row[new] = len(earlier), np.arange(len(new))
    order = pc.sort_indices(texts.table.select(["view", "subject_id"]), [("view", "ascending"), ("subject_id", "ascending")]).to_numpy()
    made = _gathered(earlier, fresh, source[place[order]], row[place[order]])
    keys = texts.table.select(["view", "subject_id"]).take(pa.array(order))
    table = pa.table(
        {
            "view": keys.column("view"),
            "subject_id": keys.column("subject_id"),
            "text_sha": shas.take(pa.array(order)),
            "encoder_id": pa.repeat(encoder.id, len(shas)),
            "n_tokens": made.n_tokens,
            "truncated": made.truncated,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(made.vectors.reshape(-1)), encoder.dimension),
        }
    )
    figures = {
        "encoder_id": encoder.id,
        "encoded": len(new),
        "reused": len(distinct) - len(new),
        "encode_seconds": round(seconds, 3),
        "texts_per_s": round(len(new) / seconds, 1) if len(new) else None,
        "views": _per_view(keys.column("view"), made),
    }
    return table, figures


def _shas(texts: pa.ChunkedArray) -> pa.Array:
    """The digest of each text, as `text_sha` gives it."""
    found: list[str] = []
    for begin in range(0, len(texts), _HASHED):
        part = texts.slice(begin, _HASHED).cast(pa.binary()).to_pylist()
        found += [hashlib.sha256(text).hexdigest() for text in part]
    return pa.array(found, pa.string())


def _first_of_each(texts: pa.ChunkedArray, place: np.ndarray, new: np.ndarray, count: int) -> list[str]:
    """The texts whose digests' numbers are `new`, which ascend.

    Args:
        place: of each text, the number of its digest, in the order in which they are first met.
        count: of digests.
    """
    first_row = np.empty(count, np.int64)
    first_row[place[::-1]] = np.arange(len(place))[::-1]
    is_first = np.zeros(len(place), bool)
    is_first[first_row[new]] = True
    found: list[str] = texts.filter(pa.array(is_first)).to_pylist()  # take would copy all texts into one piece
    return found


def _sources(distinct: pa.Array, encoder: Encoder, earlier: list[Parts]) -> tuple[np.ndarray, np.ndarray]:
    """Where the vector of each distinct text lies: int64 the number of the table, −1: in none; and int64 the row in it."""
    source, row = np.full(len(distinct), -1, np.int64), np.zeros(len(distinct), np.int64)
    for number, parts in enumerate(earlier):
        shas = pa.chunked_array([chunk for part in parts(_KEYS) for chunk in _own(part, encoder).chunks], pa.string())
        place = pc.fill_null(pc.index_in(shas, value_set=distinct, skip_nulls=True), -1).to_numpy()
        rows = np.flatnonzero(place >= 0)
        source[place[rows]], row[place[rows]] = number, rows
    return source, row


def _own(part: pa.Table, encoder: Encoder) -> pa.ChunkedArray:
    """The digests of a part's texts, null where another encoder read them."""
    return pc.if_else(pc.equal(part.column("encoder_id"), encoder.id), part.column("text_sha"), None)


def _gathered(earlier: list[Parts], fresh: Encoded, source: np.ndarray, row: np.ndarray) -> Encoded:
    """Row by row what stands in `row` of the table that `source` names; a number behind the last table: of `fresh`."""
    count, dimension = len(source), fresh.vectors.shape[1]
    made = Encoded(np.empty((count, dimension), np.float32), np.empty(count, np.int32), np.empty(count, bool))
    for number, parts in enumerate(earlier):
        places = np.flatnonzero(source == number)
        if len(places):
            by_row = places[np.argsort(row[places], kind="stable")]  # so that a table is read once, a part at a time
            _take_over(made, parts, by_row, row[by_row])
    places = np.flatnonzero(source == len(earlier))
    rows = row[places]
    made.vectors[places], made.n_tokens[places], made.truncated[places] = fresh.vectors[rows], fresh.n_tokens[rows], fresh.truncated[rows]
    return made


def _take_over(made: Encoded, parts: Parts, places: np.ndarray, rows: np.ndarray) -> None:
    """Copy these rows of an earlier table to these places. `rows` ascend."""
    start = 0
    for part in parts(["n_tokens", "truncated", "vector"]):
        begin, end = np.searchsorted(rows, [start, start + part.num_rows])
        to, at = places[begin:end], rows[begin:end] - start
        vectors = part.column("vector").combine_chunks().flatten().to_numpy().reshape(part.num_rows, -1)
        made.vectors[to] = vectors[at]
        made.n_tokens[to], made.truncated[to] = part.column("n_tokens").to_numpy()[at], part.column("truncated").to_numpy()[at]
        start += part.num_rows


def _encoded(texts: list[str], encoder: Encoder) -> tuple[Encoded, float]:
    """The texts' vectors and the seconds they took. Raises ModelError for a vector that is not finite."""
    if not texts:
        return Encoded(np.empty((0, encoder.dimension), np.float32), np.zeros(0, np.int32), np.zeros(0, bool)), 1e-9
    started = time.perf_counter()
    with log.Progress("texts encoded", len(texts)) as progress:
        fresh = encoder.encode(texts, progress.advance)
    if not np.isfinite(fresh.vectors).all():
        raise ModelError(f"the encoder {encoder.id} gave vectors that are not finite", "name another one in vectors.encoder")
    return fresh, max(time.perf_counter() - started, 1e-9)


def _per_view(views: pa.ChunkedArray, made: Encoded) -> dict[str, dict[str, float]]:
    coded = views.combine_chunks().dictionary_encode()
    names, view, found = coded.dictionary.to_pylist(), coded.indices.to_numpy(), {}
    for name in sorted(names):
        chosen = view == names.index(name)
        found[name] = {
            "texts": int(chosen.sum()),
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
