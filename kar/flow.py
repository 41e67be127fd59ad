"""The stages in order: what each reads, writes and may reject. Data, no code; the runner and the docs follow it.

A stage has one name in six places: module `kar/stages/<name>.py`, settings section `[<name>]`, data folder
`<home>/<scenario>/<name>/`, DAG task, test id and README row.

`at` of a read says which partition is read when the run is for date D:
    same      date D
    snapshot  the date whose knowledge the training examples may meet: D itself in `per_user` mode,
              D − examples.window_days in `time` mode (an example may only meet knowledge older than itself)
    latest    the newest partition at or before D; of trainings (and their examples) the newest that its gate did not hold back
    previous  the newest partition before D, if there is one (None otherwise)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

At = Literal["same", "snapshot", "latest", "previous"]


@dataclass(frozen=True)
class Read:
    """One table that a stage reads from another (or, with at="previous", from its own earlier partition)."""

    stage: str
    table: str
    at: At = "same"


@dataclass(frozen=True)
class Stage:
    """One stage's contract.

    Args:
        name: the name in the six places.
        title: what it does, one line; shown by `kar --help`, the README and the report.
        version: raised by hand when its output changes for the same input; part of the recipe.
        reads: its declared inputs; asking for any other is an error.
        writes: the tables of its partition, each declared in `kar.tables`.
        rejects: reason → what it means. Rows are left out for no other reason.
        settings: the settings sections whose recipe fields it depends on.
    """

    name: str
    title: str
    version: int
    reads: tuple[Read, ...]
    writes: tuple[str, ...]
    rejects: dict[str, str]
    settings: tuple[str, ...]


SOURCES = Stage(
    name="sources",
    title="map, cast and validate the user's tables as of the partition date",
    version=1,
    reads=(),
    writes=("user", "item", "user_attribute", "item_attribute", "interaction"),
    rejects={
        "missing_id": "a row without a user or item id",
        "id_not_a_number": "an id that is not a whole number although the settings say int",
        "id_out_of_range": "an integer id beyond 64 bits",
        "duplicate_key": "a second row with the same key (users, items: the id; interactions: user, item, time)",
        "unknown_user": "an interaction of a user who is not in the users table",
        "unknown_item": "an interaction with an item that is not in the items table",
        "bad_time": "a time that cannot be read in the declared unit",
        "after_cutoff": "an event at or after the end of the partition date",
        "bad_rating": "a rating that is missing, not a finite number, or outside the declared range; a click that is neither 0 nor 1",
        "bad_row": "a line that the file's format cannot parse",
        "forgotten": "a row of a user or item that kar forget took away; shown nowhere",
    },
    settings=("scenario", "sources"),
)

HISTORIES = Stage(
    name="histories",
    title="cut each user's history in time, and describe each item with what exists before the cutoff",
    version=2,
    reads=(
        Read("sources", "user"),
        Read("sources", "item"),
        Read("sources", "item_attribute"),
        Read("sources", "interaction"),
        Read("vectors", "item_edge", "previous"),
    ),
    writes=("history", "item_profile", "item_neighbour"),
    rejects={"empty_history": "the user did nothing before the cutoff"},
    settings=("scenario", "histories"),
)

PROMPTS = Stage(
    name="prompts",
    title="plan whom to ask tonight and why, and render each request",
    version=4,
    reads=(
        Read("histories", "history"),
        Read("histories", "item_profile"),
        Read("histories", "item_neighbour"),
        Read("sources", "user_attribute"),
        Read("sources", "item_attribute"),
        Read("knowledge", "knowledge", "previous"),
        Read("knowledge", "refused", "previous"),
    ),
    writes=("plan", "request"),
    rejects={
        "empty_history": "nothing is known of the user before the cutoff, so there is nothing to ask",
        "empty_item": "an item without title or text before the cutoff, or without neighbours for a template that shows them",
        "over_budget": "due, but beyond tonight's token budget; the age of the old knowledge grows",
        "prompt_too_long": "the prompt does not fit the model's context even without history",
        "refused_before": "due, but the answer to this very request was refused, and the ledger would give the same again",
    },
    settings=("scenario", "prompts", "llm", "knowledge"),
)

KNOWLEDGE = Stage(
    name="knowledge",
    title="ask the language model, keep every answer, accept what passes the quality gate",
    version=4,
    reads=(
        Read("prompts", "plan"),
        Read("prompts", "request"),
        Read("histories", "history"),
        Read("histories", "item_profile"),
        Read("sources", "interaction"),
        Read("knowledge", "knowledge", "previous"),
        Read("knowledge", "factor_knowledge", "previous"),
        Read("knowledge", "refused", "previous"),
    ),
    writes=("knowledge", "factor_knowledge", "refused", "pace"),
    rejects={
        "empty": "the answer holds no text",
        "refusal": "the model declined",
        "asks_for_input": "the model asked back instead of answering",
        "echo": "the answer repeats the prompt",
        "truncated": "the answer stopped at the token limit, also after the retry with more tokens",
        "truncated_by_reasoning": "the token limit was spent on reasoning, the answer is empty",
        "too_short": "fewer words than the template asks for at least",
        "repetition": "the answer loops",
        "empty_list": "a list or an object without any entry",
        "not_a_list": "a list or an object was asked for, the answer is none",
        "broken_json": "JSON that is not the object of factors that was asked for",
        "wrong_language": "surely in none of the languages that knowledge.languages names",
        "off_domain": "more words of other things than of this kind of item",
        "entity_mismatch": "about titles that the user never met, or about another item than its own",
        "sensitive_inference": "guesses a user's age, gender, health, religion, origin, politics or sexuality",
        "near_duplicate": "alike more other texts of its view than knowledge.max_near_duplicates",
        "unlikely": "its source hardly explains it (only where knowledge.judge is on)",
        "bad_request": "the server refused the request for good (400, 404, 413, 422)",
        "exhausted": "no answer after the last attempt",
        "over_budget": "planned, but the token budget or the deadline was reached before the call",
        "not_asked": "planned, and no share of the night has asked it (llm.ask = false, kar run knowledge --answers held)",
        "awaits_batch": "planned, and no batch has brought its answer yet (llm.provider = 'batch')",
        "unknown_subject": "imported text for a subject that the tables do not hold",
        "duplicate_key": "a second imported text for the same subject",
        "evidence_after_cutoff": "imported text whose evidence is not in the user's events before the cutoff date",
        "missing_id": "an imported row without a subject id",
        "bad_row": "an imported line that is not the expected JSON",
        "forgotten": "an imported text about a user or item that kar forget took away; shown nowhere",
    },
    settings=("scenario", "knowledge", "llm"),
)

VECTORS = Stage(
    name="vectors",
    title="encode each accepted text once",
    version=3,
    reads=(
        Read("knowledge", "knowledge"),
        Read("knowledge", "factor_knowledge"),
        Read("histories", "history"),
        Read("histories", "item_profile"),
        Read("vectors", "knowledge_vector", "previous"),
    ),
    writes=("knowledge_vector", "item_edge"),
    rejects={"empty_text": "nothing to encode"},
    settings=("scenario", "vectors"),
)

EXAMPLES = Stage(
    name="examples",
    title="label and split the examples, and check that no prompt has seen what they ask about",
    version=2,
    reads=(
        Read("sources", "interaction"),
        Read("histories", "history", "snapshot"),
        Read("histories", "item_profile", "snapshot"),
        Read("knowledge", "knowledge", "snapshot"),
    ),
    writes=("sequence", "example_item", "example"),
    rejects={
        "in_evidence": "the (user, item) pair of the example is in the evidence of the knowledge it would meet",
        "before_evidence": "the example is older than the newest evidence of the knowledge it would meet",
        "no_label": "the label column has no value",
        "short_history": "fewer events before the example than examples.min_history",
        "held_out": "a training example of an item that examples.held_out_items keeps out of training",
    },
    settings=("scenario", "histories", "examples"),
)

_TRAINED_ON = (
    Read("examples", "example"),
    Read("examples", "example_item"),
    Read("examples", "sequence"),
    Read("sources", "user_attribute"),
    Read("sources", "item_attribute"),
    Read("histories", "history", "snapshot"),
    Read("vectors", "knowledge_vector", "snapshot"),
)

ADAPTOR = Stage(
    name="adaptor",
    title="train the hybrid-expert adaptor jointly with each backbone, in four arms",
    version=3,
    reads=_TRAINED_ON,
    writes=("metric", "comparison", "calibration", "prediction", "epoch", "study", "gate_weight", "view_use"),
    rejects={},
    settings=("scenario", "histories", "adaptor"),
)

FEATURES = Stage(
    name="features",
    title="adapt the newest vectors, verify them and publish a release",
    version=3,
    reads=(
        Read("sources", "user"),
        Read("sources", "item"),
        Read("sources", "interaction"),
        Read("knowledge", "knowledge"),
        Read("knowledge", "refused", "previous"),
        Read("vectors", "knowledge_vector"),
        Read("adaptor", "comparison", "latest"),
    ),
    writes=("release",),
    rejects={},
    settings=("scenario", "histories", "examples", "adaptor", "features"),
)

REPORT = Stage(
    name="report",
    title="one page that says whether the knowledge helped, and what it cost",
    version=1,
    reads=(
        Read("sources", "interaction"),
        Read("histories", "history"),
        Read("histories", "item_profile"),
        Read("prompts", "plan"),
        Read("prompts", "request"),
        Read("knowledge", "knowledge"),
        Read("knowledge", "factor_knowledge"),
        Read("knowledge", "refused"),
        Read("knowledge", "pace"),
        Read("vectors", "knowledge_vector"),
        Read("examples", "example", "latest"),
        Read("adaptor", "metric", "latest"),
        Read("adaptor", "comparison", "latest"),
        Read("adaptor", "calibration", "latest"),
        Read("adaptor", "epoch", "latest"),
        Read("adaptor", "gate_weight", "latest"),
        Read("adaptor", "view_use", "latest"),
        Read("adaptor", "study", "latest"),
        Read("features", "release"),
    ),
    writes=(),
    rejects={},
    settings=("scenario", "report"),
)

RERANK = Stage(
    name="rerank",
    title="re-rank candidate lists with the adapted vectors, in the same arms",
    version=2,
    reads=_TRAINED_ON,
    writes=("rerank_list", "rerank_metric", "rerank_comparison"),
    rejects={
        "no_positive": "a group of consecutive examples none of which is positive",
        "over_cap": "a group beyond rerank.lists_per_user of its user and split",
        "no_negative": "a group of positives for whose user no item is left that could stand beside them",
    },
    settings=("scenario", "histories", "adaptor", "rerank"),
)

RETRIEVAL = Stage(
    name="retrieval",
    title="rank all items by towers over the text vectors, one view against another (LLM-Rec's evaluation)",
    version=1,
    reads=(
        Read("examples", "sequence"),
        Read("histories", "item_profile", "snapshot"),
        Read("knowledge", "knowledge", "snapshot"),
        Read("vectors", "knowledge_vector", "snapshot"),
    ),
    writes=("retrieval_metric", "retrieval_comparison"),
    rejects={
        "met_again": "a later event of a user and an item that met before",
        "not_to_find": "a positive of valid or test whose user has none in train, or (temporal) whose item nobody met there; all splits",
    },
    settings=("scenario", "retrieval"),
)

FLOW: tuple[Stage, ...] = (
    SOURCES,
    HISTORIES,
    PROMPTS,
    KNOWLEDGE,
    VECTORS,
    EXAMPLES,
    ADAPTOR,
    FEATURES,
    REPORT,
)
ASIDE: tuple[Stage, ...] = (RERANK, RETRIEVAL)
"""Stages that `run all` and the nightly DAG leave out: they run by their name only, after the flow."""
EVERY: tuple[Stage, ...] = (*FLOW, *ASIDE)
PLANNING: tuple[str, ...] = (SOURCES.name, HISTORIES.name, PROMPTS.name)
"""What comes before the first question: nothing is asked, nothing is paid for."""
NIGHTLY: tuple[str, ...] = (*PLANNING, KNOWLEDGE.name, VECTORS.name)
TRAINING: frozenset[str] = frozenset({"examples", "adaptor", "rerank", "retrieval"})
PUBLISHING: tuple[str, ...] = (FEATURES.name, REPORT.name)
NAMES: tuple[str, ...] = tuple(stage.name for stage in FLOW)
ASIDE_NAMES: tuple[str, ...] = tuple(stage.name for stage in ASIDE)


def stage_named(name: str) -> Stage:
    """The stage of that name. Raises KeyError for a name that is none."""
    found = next((stage for stage in EVERY if stage.name == name), None)
    return found or _unknown(name)


def _unknown(name: str) -> Stage:
    raise KeyError(f"no stage is called {name!r}; the stages are {', '.join((*NAMES, *ASIDE_NAMES))}")
