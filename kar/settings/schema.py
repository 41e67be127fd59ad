"""The settings, one model per section. A section is named after its stage; `llm` serves prompts and knowledge.

A field marked `_NOT_IN_RECIPE` changes how a stage runs but never what it writes (addresses, concurrency, threads):
it stays out of the recipe, so changing it re-runs nothing.
"""

from __future__ import annotations

import datetime as dt
import re
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

_NOT_IN_RECIPE: dict[str, Any] = {"recipe": False}
View = str
Form = Literal["prose", "factors"]
Structured = Literal["structured_outputs", "response_format", "none"]
Arm = str
Backbone = Literal["deepfm", "xdeepfm", "dcn", "dcnv2", "autoint", "fignn", "fibinet", "din", "dien"]
Base = Literal["thin", "same_evidence", "rich"]
Control = Literal["masked", "noise"]
Reranker = Literal["dlcm", "prm", "setrank", "mir"]
RetrievalArm = Literal["popularity", "id", "original", "views", "all", "enriched", "noise", "permuted"]
AdaptorForm = Literal["experts", "one_gate", "mlp", "linear", "random"]
_HOSTED = ("api.openai.com",)
_HOSTED_BELOW = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
_ARM = re.compile(
    r"base|text|knowledge|permuted|user_only|item_only|target_only|masked|noise|one_gate|mlp|linear|random|without:[a-z0-9_ ./-]+"
)
_LABEL = re.compile(r"^\s*(rating|click)\s*(?:(>=|>|==)\s*(-?\d+(?:\.\d+)?))?\s*$")


def _each_once(value: list[Any]) -> list[Any]:
    if len(set(value)) < len(value):
        raise ValueError(f"{value} names something twice")
    return value


def _known_arms(value: list[str]) -> list[str]:
    if strange := [arm for arm in value if not _ARM.fullmatch(arm)]:
        raise ValueError(f"there is no arm {strange[0]!r}; the arms: base, text, knowledge, permuted, … (kar/model/arms.py)")
    return value


def _address(value: str) -> str:
    """A server's address without credentials: it stands in messages, logs and lists, where a key may not."""
    parts = urlsplit(value)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "an address ends with /v1 and holds no user, password, key or query: the key comes from the environment (llm.api_key_env)"
        )
    return value


Address = Annotated[str, AfterValidator(_address)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def recipe(self) -> dict[str, Any]:
        """The fields that can change what is written, as plain JSON."""
        left_out = {
            n
            for n, f in type(self).model_fields.items()
            if isinstance(f.json_schema_extra, dict) and f.json_schema_extra.get("recipe") is False
        }
        return self.model_dump(mode="json", exclude=left_out)


class ScenarioSettings(Section):
    """[scenario]"""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="folder name under KAR_HOME")
    domain: str = Field(pattern=r"^[a-z0-9_]+$", description="folder under prompts/: its factors and templates")
    user_id: Literal["int", "string"] = "int"
    item_id: Literal["int", "string"] = "int"


class Columns(Section):
    """[sources.<table>.columns]: our name = the source's column (or, for files without header, its place in `names`)."""

    user_id: str | None = None
    item_id: str | None = None
    event_at: str | None = None
    rating: str | None = None
    click: str | None = None
    text: str | list[str] | None = Field(None, description="review text; several columns are joined with '. '")
    title: str | None = None
    description: str | list[str] | None = None
    attributes: dict[str, str] = Field(default_factory=dict, description="our attribute name = the source's column")


class SourceTable(Section):
    """[sources.users], [sources.items], [sources.interactions]"""

    path: str = Field(description="file, or a glob of Parquet files; relative to sources.folder")
    format: Literal["parquet", "csv", "tsv", "dat", "jsonl", "duckdb"] = Field(
        description="dat: '::'-separated; duckdb: path is a SQL query"
    )
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    header: bool = True
    names: list[str] | None = Field(None, description="column names of a file without header")
    columns: Columns
    lists: dict[str, str] = Field(default_factory=dict, description="attribute = separator of its list, e.g. genre = '|'")


class SourcesSettings(Section):
    """[sources]"""

    folder: str = Field(".", description="where the tables lie; relative to the working directory")
    users: SourceTable | None = Field(None, description="none: users are the ones in the interactions")
    items: SourceTable | None = Field(None, description="none: items are the ones in the interactions, described by their reviews")
    interactions: SourceTable
    time_unit: Literal["s", "ms", "us", "iso"] = "s"
    rating_range: tuple[float, float] | None = Field(None, description="lowest and highest rating; outside: rejected")
    max_rejected_share: float = Field(0.5, ge=0, le=1, description="more rejected rows of a table than this: SourceError")


class NeighbourSettings(Section):
    """[histories.neighbours]: which items stand beside an item, for templates that show neighbours (LLM-Rec's engagement views)."""

    source: Literal["none", "engagement", "text"] = Field(
        "none",
        description="engagement: Personalized PageRank on the graph of users and items, of the events that a prompt may know of; text: the edges "
        "of the night before (vectors.edges), so none on the first; none: no neighbours",
    )
    relation: View = Field("item.raw", description="text: whose edges, one of vectors.edges.views")
    count: int = Field(3, ge=1, le=50, description="neighbours kept of each item, the nearest first; the paper's T")
    restart: float = Field(
        0.15, gt=0, lt=1, description="engagement: chance that a walk goes back to its item before a step; 1 − the paper's 0.85"
    )
    discount: float = Field(
        0.0,
        ge=0,
        le=1,
        description="engagement: scores are divided by the neighbour's number of users to this power; 0: the paper's, popular first",
    )


class HistoriesSettings(Section):
    """[histories]"""

    mode: Literal["time", "per_user"] = Field(
        "time", description="time: cutoff = end of the date; per_user: KAR's, the first min((n+1)//2, cap) events"
    )
    cap: int = Field(30, ge=1, description="events of a history that a prompt may show")
    review_count: int = Field(5, ge=0, description="reviews before the cutoff that describe an item without description")
    review_chars: int = Field(240, ge=20)
    neighbours: NeighbourSettings = NeighbourSettings()


class Endpoint(Section):
    """[[llm.endpoints]]: one of several servers with the same model."""

    base_url: Address = Field(description="up to and with /v1")
    weight: float = Field(1.0, gt=0, description="share of the work, and of llm.concurrency, against the heaviest one's")


class Price(Section):
    """[llm.prices."PATTERN"]: US dollars per million tokens of the models whose names match."""

    prompt: float = Field(0.0, ge=0)
    cached: float | None = Field(None, ge=0, description="prompt tokens that the server had in its cache; none: the price of the others")
    completion: float = Field(0.0, ge=0)

    def usd(self, prompt_tokens: Any, completion_tokens: Any) -> Any:
        """Dollars of so many tokens, one number or a column of them, none of the prompt's from the cache."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class LLMSettings(Section):
    """[llm]: which model, where, within which budget."""

    provider: Literal["local", "openai", "batch"] = Field(
        "local",
        description="local: kar serve starts a small model for the run; openai: any OpenAI-compatible server; "
        "batch: kar run asks nothing, answers come through kar batch",
    )
    model: str = "smollm2-135m-instruct"
    revision: str = Field("", description="empty: as the server reports it")
    base_url: Address = Field("http://127.0.0.1:8000/v1", json_schema_extra=_NOT_IN_RECIPE)
    endpoints: list[Endpoint] = Field(
        default_factory=list, description="several servers with the same model; empty: base_url alone", json_schema_extra=_NOT_IN_RECIPE
    )
    api_key_env: str = Field(
        "KAR_LLM_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="environment variable that holds the key; never the key",
        json_schema_extra=_NOT_IN_RECIPE,
    )
    tokenizer: str = Field(
        "", description="folder of the served model's tokenizer; empty: the local model's, or an estimate of 4 characters a token"
    )
    context_tokens: int = Field(2048, ge=128, description="prompt and answer together")
    extra_body: dict[str, Any] = Field(default_factory=dict, description="sent as it is with every request, e.g. chat_template_kwargs")
    structured: Literal["auto", "structured_outputs", "response_format", "none"] = Field(
        "auto",
        description="how the server is held to a JSON schema where an answer is wanted in factors: structured_outputs (vLLM), response_format "
        "(hosted), none (it cannot be). auto: none for provider local, response_format at OpenAI and Azure, else structured_outputs",
    )
    thinking: Literal["auto", "off:enable_thinking", "off:thinking", "off:reasoning_effort", "leave"] = Field(
        "auto",
        description="reasoning before the answer. auto: off where the chat template in the tokenizer's folder names a switch, else left alone",
    )
    token_budget: int | None = Field(None, ge=0, description="prompt + answer tokens a run may spend; none: no limit")
    usd_budget: float | None = Field(None, ge=0, description="money a run may spend at the prices below; none: no limit")
    deadline_s: float | None = Field(
        None, gt=0, description="seconds the asking may take; none: no limit", json_schema_extra=_NOT_IN_RECIPE
    )
    ask: bool = Field(
        True,
        description="false: the knowledge stage asks nothing and judges what the ledger holds (the answers of kar ask)",
        json_schema_extra=_NOT_IN_RECIPE,
    )
    concurrency: int = Field(16, ge=1, description="most requests in flight, at each endpoint", json_schema_extra=_NOT_IN_RECIPE)
    metrics: Literal["auto", "off"] = Field(
        "auto",
        description="auto: the server's own metrics steer how many requests are in flight, where it has them; off: always `concurrency`",
        json_schema_extra=_NOT_IN_RECIPE,
    )
    metrics_interval_s: float = Field(2.0, gt=0, json_schema_extra=_NOT_IN_RECIPE)
    warm_up: bool = Field(
        False,
        description="one request of each family of prompts goes ahead, so that the server holds their common beginning; vLLM shares it "
        "within one batch too, so there it only costs the time of that answer",
        json_schema_extra=_NOT_IN_RECIPE,
    )
    timeout_s: float = Field(120.0, gt=0, json_schema_extra=_NOT_IN_RECIPE)
    max_attempts: int = Field(3, ge=1, json_schema_extra=_NOT_IN_RECIPE)
    usd_per_million_prompt_tokens: float = Field(0.0, ge=0)
    usd_per_million_completion_tokens: float = Field(0.0, ge=0)
    batch_price_share: float = Field(0.5, ge=0, le=1, description="what a batch costs, as a share of these prices")
    prices: dict[str, Price] = Field(
        default_factory=dict,
        description="model name or pattern (gpt-4o*) = its prices; the first that matches goes before the two fields above",
    )

    @field_validator("endpoints")
    @classmethod
    def _each_address_once(cls, value: list[Endpoint]) -> list[Endpoint]:
        if len({e.base_url.rstrip("/") for e in value}) < len(value):
            raise ValueError("two endpoints have the same base_url")
        return value

    def price(self) -> Price:
        """The model's prices: the first entry of `prices` whose pattern fits, else the two single fields; of a batch, its share."""
        single = Price(prompt=self.usd_per_million_prompt_tokens, completion=self.usd_per_million_completion_tokens)
        found = next((price for pattern, price in self.prices.items() if fnmatchcase(self.model, pattern)), single)
        if self.provider != "batch":
            return found
        share = self.batch_price_share
        cached = None if found.cached is None else found.cached * share
        return Price(prompt=found.prompt * share, cached=cached, completion=found.completion * share)

    @property
    def structured_by(self) -> Structured:
        """The field of the request body that holds the server to a schema; none: there is none, so prose is asked for."""
        if self.structured != "auto":
            return self.structured
        if self.provider == "local":
            return "none"
        hosts = [urlsplit(url).hostname or "" for url in [e.base_url for e in self.endpoints] or [self.base_url]]
        is_hosted = any(host in _HOSTED or host.endswith(_HOSTED_BELOW) for host in hosts)
        return "response_format" if is_hosted else "structured_outputs"

    def recipe(self) -> dict[str, Any]:
        """The address is in no recipe, but what it says about the server decides what is asked, and so is."""
        return {**super().recipe(), "structured": self.structured_by}


class Variant(Section):
    """[prompts.variants."VIEW"]: a second template for part of a view's subjects."""

    template: str = Field(
        pattern=r"^(user|item)(\.[a-z0-9_]+){2,}$", description="file in the domain's folder without .toml, e.g. item.facts.b"
    )
    share: float = Field(ge=0, le=1, description="of the subjects that it asks; which ones follows from salt and subject alone")
    salt: str = Field("", description="another salt draws other subjects")


class PromptsSettings(Section):
    """[prompts]"""

    views: list[View] = ["user.preference", "item.facts"]
    form: dict[View, Form] = Field(
        default_factory=dict,
        description="view = prose or factors: in which form its answers are wanted; a view that is not named: as its template says",
    )
    min_new_events: int = Field(5, ge=1, description="a user is due again after this many new events in the history")
    drift_attribute: str = Field(
        "", description="item attribute, e.g. genre: a user is due again when its mixture over the history moves; empty: not measured"
    )
    max_drift: float = Field(
        0.3, gt=0, le=1, description="total variation distance, 0-1, between last prompt's mixture and tonight's from which a user is due"
    )
    max_age_days: int = Field(180, ge=1, description="knowledge older than this is due again")
    max_history_tokens: int = Field(900, ge=16, description="tokens of the history line; the oldest events are dropped first")
    variants: dict[View, Variant] = Field(default_factory=dict, description="view = a second template for a share of its subjects (A/B)")
    order: Literal["value", "prefix"] = Field(
        "value", description="prefix: within a band of like value, requests that begin alike stand together, the longest first"
    )
    value_bands: int = Field(10, ge=1, description="order prefix: bands of like value; a deadline cuts the last of them")
    folder: str = Field("prompts", description="where <domain>/ lies", json_schema_extra=_NOT_IN_RECIPE)

    @model_validator(mode="after")
    def _forms_are_of_views(self) -> PromptsSettings:
        if strange := sorted(set(self.form) - set(self.views)):
            raise ValueError(f"form names {', '.join(strange)}, not among the views {self.views}")
        return self

    @model_validator(mode="after")
    def _variants_are_of_their_views(self) -> PromptsSettings:
        for view, variant in self.variants.items():
            if view not in self.views:
                raise ValueError(f"variants names view {view!r}, which is not among views {self.views}")
            if not variant.template.startswith(f"{view}."):
                raise ValueError(f"variants.{view}: the template's file is {view}.<name>, not {variant.template!r}")
        return self


class KnowledgeSettings(Section):
    """[knowledge]"""

    imports: dict[View, str] = Field(
        default_factory=dict, description="view = JSON-lines file of {user_id|item_id, text[, evidence]}; such a view is not asked"
    )
    imports_folder: str = Field(".", description="where the imported files lie; relative to the working directory")
    imports_written_by: str = Field("", description="which model wrote the imported texts; shown in every table and report")
    min_words: int = Field(12, ge=1)
    max_words: int = Field(400, ge=10)
    max_repetition_share: float = Field(0.35, gt=0, le=1, description="share of repeated 4-grams above which an answer loops")
    retry_truncated: bool = Field(True, description="ask once more with twice the tokens when an answer was cut")
    accept_truncated_sentences: bool = Field(True, description="if it is cut again, keep the whole sentences when they are long enough")
    languages: list[str] = Field(["en"], description="ISO 639-1 codes an answer may be in; empty: not checked")
    off_domain: bool = Field(True, description="refuse answers about other things, by the words of prompts/<domain>/factors.toml")
    entity: bool = Field(True, description="refuse answers about titles that the user never met, or about another item than their own")
    sensitive: bool = Field(True, description="refuse answers that guess a user's age, gender, health, religion, origin or politics")
    near_duplicate_share: float = Field(0.5, gt=0, le=1, description="share of 3-word runs from which on two texts are alike")
    max_near_duplicates: int = Field(
        10, ge=1, description="a text alike more others of its view than this is a generic profile; all of them are refused"
    )
    max_length_drift: float = Field(0.3, gt=0, description="mean words of a view this far (as a share) from last night's are warned of")
    max_vocabulary_drift: float = Field(0.3, gt=0, description="the same for the share of distinct words")
    max_refused_rise: float = Field(0.05, gt=0, le=1, description="a reason's share of refused answers up by more than this is warned of")
    max_near_duplicate_rise: float = Field(0.05, gt=0, le=1, description="the same for the share of near-duplicates")
    judge: bool = Field(
        False,
        description="score each accepted answer by its likelihood given its source; needs a server with prompt_logprobs (vLLM), and reads each "
        "prompt twice more, from what the answers leave of the budget",
    )
    min_likelihood_gain: float = Field(
        0.2,
        description="nats a token that the source must explain, where judge is on. With a 135M model texts about another item gained at most 0.3, "
        "its own answers 0.5 and more; the gains of each night are among its figures",
    )


class EdgeSettings(Section):
    """[vectors.edges]: which items are near each other by their texts; the table item_edge."""

    views: list[View] = Field(
        default_factory=list, description="views of items, each a relation, e.g. item.facts, item.raw; empty: no edges"
    )
    count: int = Field(10, ge=1, le=200, description="two items are joined when each is among the other's so many nearest by cosine")
    min_score: float = Field(0.3, ge=-1, le=1, description="and their cosine is at least this")
    control: bool = Field(False, description="also random edges of the same degrees, as the relation item.facts@random")

    @field_validator("views")
    @classmethod
    def _of_items(cls, value: list[View]) -> list[View]:
        if strange := [view for view in value if not view.startswith("item.")]:
            raise ValueError(f"{strange[0]} is no view of items")
        return _each_once(value)


class VectorsSettings(Section):
    """[vectors]"""

    encoder: str = Field(
        "all-minilm-l6-v2", description="all-minilm-l6-v2 (from its registry wheel), or a folder or hub name for sentence-transformers"
    )
    batch_size: int = Field(64, ge=1, json_schema_extra=_NOT_IN_RECIPE)
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16: twice the speed where the processor has it (AMX, AVX512-BF16), vectors within 0.00003 of cosine"
    )
    raw_views: bool = Field(True, description="also encode item.raw and user.raw, for the text arm")
    controls: list[Control] = Field(
        default_factory=list,
        description="masked: every knowledge text also with its titles and names replaced by neutral ones, as item.facts@masked; noise: random words "
        "of its view, as many as it has, as item.facts@noise",
    )
    per_factor: list[View] = Field(
        default_factory=list,
        description="views whose factors are also encoded each for itself, as views like item.facts:mood; only where the answers are in factors",
    )
    max_truncated_share: float = Field(0.05, ge=0, le=1, description="a larger share of cut texts in a view is a CheckFailed")
    edges: EdgeSettings = EdgeSettings()


class ExamplesSettings(Section):
    """[examples]"""

    label: str = Field("rating > 3", description="rating > N, rating >= N, or click")
    split: Literal["by_user", "by_time"] = Field("by_user", description="by_user: users are drawn; by_time: the newest examples are tested")
    valid_share: float = Field(0.1, gt=0, lt=1)
    test_share: float = Field(0.1, gt=0, lt=1)
    seed: int = 1
    test_users: str = Field(
        "",
        description="by_user: a JSON file that names the tested users, a list or an object with a list `test`; empty: they are drawn",
        json_schema_extra=_NOT_IN_RECIPE,  # the file's digest is
    )
    held_out_items: float = Field(
        0.0, ge=0, lt=1, description="cold_items: share of the items that is never trained on, and whose ids no ranker sees"
    )
    window_days: int = Field(
        30, ge=1, description="time mode: examples are the last days before the cutoff; their knowledge is older than the window"
    )
    min_history: int = Field(1, ge=0)
    max_leaks: int = Field(
        0,
        ge=0,
        description="examples that imported knowledge has seen are excluded and counted; of our own prompts more than this is a LeakError",
    )

    @field_validator("label")
    @classmethod
    def _label_is_a_rule(cls, value: str) -> str:
        if not _LABEL.match(value) or (value.strip().startswith("rating") and value.strip() == "rating"):
            raise ValueError(f"the label rule is {value!r}; write 'rating > 3', 'rating >= 4', or 'click'")
        return value

    def label_rule(self) -> tuple[str, str, float]:
        """(column, operator, threshold); a click column reads as ("click", "==", 1.0)."""
        match = _LABEL.match(self.label)
        assert match is not None
        column, operator, threshold = match.groups()
        return column, operator or "==", float(threshold) if threshold is not None else 1.0


class TrainingGateSettings(Section):
    """[adaptor.gate]: what a training must show before readers use its checkpoint (kar/training_gate.py); judged on valid alone, seeds averaged.

    Of the published backbone over the published base. Lenient: it is there for what went wrong, not for what went a little worse.
    """

    min_valid_users: int = Field(
        30, ge=1, description="with fewer users on valid no AUC is held against anything: of so few it is mostly the draw of the users"
    )
    min_valid_examples: int = Field(
        1000,
        ge=1,
        description="the same of examples: of 1,000 the standard error of an AUC is near 0.02, as much as it is held against here",
    )
    min_auc: float = Field(
        0.5, ge=0, le=1, description="AUC of the arm knowledge; 0.5 is a coin's. Below it labels are swapped, or nothing was learned"
    )
    max_loss_to_base: float = Field(
        0.02,
        ge=0,
        le=1,
        description="how far the arm knowledge may rank below the arm base. Measured (LOG.md): seeds differ by 0.0015, and shuffled knowledge, which means nothing, lost 0.0021 at most",
    )
    max_drop: float = Field(
        0.05,
        ge=0,
        le=1,
        description="how far its AUC may lie below the last promoted training's, where both follow the same rules of label and split; the examples "
        "are of other days, so weeks differ by more than seeds do",
    )
    min_covered_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the valid examples whose user or item has knowledge; 0: any, as a first night's budget may buy little",
    )
    min_test_users: int = Field(
        1,
        ge=0,
        description="users on test, as a count: without one nothing will ever say whether the knowledge helped; results are not looked at",
    )


class AdaptorSettings(Section):
    """[adaptor]"""

    backbones: list[Backbone] = Field(["fibinet", "din"], min_length=1)
    bases: list[Base] = Field(
        ["same_evidence"],
        min_length=1,
        description="what the ranker itself sees. thin: 5 events and one attribute, as in KAR; same_evidence: the events that the prompt saw, and "
        "the item attributes; rich: also user id, user attributes, every value of an attribute, the hour, mean ratings, a longer history",
    )
    arms: list[Arm] = Field(["base", "text", "knowledge", "permuted"], min_length=1)
    seeds: list[int] = Field([1], min_length=1)
    published_backbone: Backbone = Field("fibinet", description="whose checkpoint the release uses")
    published_base: Base = Field("same_evidence", description="over which base that checkpoint was trained")
    user_views: list[View] = ["user.preference"]
    item_views: list[View] = ["item.facts"]
    history_knowledge: bool = Field(
        True,
        description="the items of the history carry their knowledge too, through the same adaptor; false: at the target only, as in KAR",
    )
    user_fields: list[str] = Field(default_factory=list, description="user attributes of the rich base")
    item_fields: list[str] = Field(
        default_factory=list, description="item attributes, first value each; the thin base sees the first one alone"
    )
    use_user_id: bool = Field(True, description="the rich base embeds the user id; the others never do, as in KAR")
    history_events: int | None = Field(
        None, ge=1, description="events of the history that the bases same_evidence and rich see; none: histories.cap, and 50 for rich"
    )
    item_id_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the training rows whose target's item id is hidden, in all arms alike"
    )
    user_id_dropout: float = Field(0.0, ge=0, lt=1, description="the same of the user id")
    embedding_dim: int = Field(32, ge=1, description="also the adaptor's output width")
    form: AdaptorForm = Field(
        "experts",
        description="experts: KAR's; one_gate: one pool of experts and one gate for all kinds; mlp: one for all; linear: one map a kind; random: a frozen one",
    )
    residual_gate: bool = Field(False, description="adapted vectors come in through a gate that starts at zero")
    alignment: float = Field(
        0.0, ge=0, description="weight of the contrastive loss that draws an item's embedding and its adapted vector together"
    )
    pca_init: bool = Field(False, description="item embeddings start as the principal components of their knowledge vectors")
    shared_experts: int = Field(2, ge=1)
    own_experts: int = Field(5, ge=1, description="experts per kind")
    expert_hidden: int = Field(128, ge=1)
    mlp: list[int] = [200, 80]
    batch_size: int = Field(1024, ge=2)
    block_rows: int = Field(1, ge=1, description="neighbouring training rows (of one user) that stay together in the shuffle")
    stream_rows: int | None = Field(
        None,
        ge=0,
        description="events that are in memory together, read from the tables anew in each epoch; 0: all; none: all, unless they would take more than "
        "half of the memory that is left",
    )
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    adaptor_dropout: float | None = Field(None, ge=0, lt=1, description="in the experts; none: as dropout")
    epochs: int = Field(10, ge=1)
    patience: int = Field(2, ge=1, description="epochs without a better AUC on valid before stopping")
    cold_count: int = Field(5, ge=0, description="an item with fewer training examples than this is cold")
    resamples: int = Field(1000, ge=100, description="paired bootstrap over users")
    trials: int = Field(
        0,
        ge=0,
        description="hyper-parameter trials of each base, backbone and arm, judged on valid (kar/model/tuning.py); 0: all as set here",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the large products of adaptor and backbone; weights and gradients stay float32. bfloat16 where the processor gains",
    )
    compile: bool = Field(False, description="torch.compile of the backbone")
    device: str = Field("cpu", json_schema_extra=_NOT_IN_RECIPE)
    processes: int | None = Field(
        None, ge=1, description="trainings side by side, one thread each; none: one per core", json_schema_extra=_NOT_IN_RECIPE
    )
    threads: int | None = Field(None, ge=1, description="of a training that runs alone", json_schema_extra=_NOT_IN_RECIPE)
    retrain_after_days: int | None = Field(
        14,
        ge=1,
        description="kar training due: a training older than this is due again; trainings are weekly, so two of them failed. none: age is no reason",
        json_schema_extra=_NOT_IN_RECIPE,
    )
    gate: TrainingGateSettings = Field(
        TrainingGateSettings(),
        description="another gate judges the next training, and never the one that is there",
        json_schema_extra=_NOT_IN_RECIPE,
    )

    _known = field_validator("arms")(_known_arms)

    _once = field_validator("backbones", "bases", "arms", "seeds", "user_views", "item_views", "user_fields", "item_fields")(_each_once)

    @model_validator(mode="after")
    def _published_is_trained(self) -> AdaptorSettings:
        if self.published_backbone not in self.backbones:
            raise ValueError(f"published_backbone {self.published_backbone!r} is not among backbones {self.backbones}")
        if self.published_base not in self.bases:
            raise ValueError(f"published_base {self.published_base!r} is not among bases {self.bases}")
        return self


class RerankSettings(Section):
    """[rerank]; the adaptor's shape, the embeddings' width and the views are those of [adaptor]."""

    models: list[Reranker] = Field(["dlcm", "prm", "setrank", "mir"], min_length=1)
    arms: list[Arm] = Field(["base", "text", "knowledge", "permuted"], min_length=1)
    seeds: list[int] = Field([1], min_length=1)
    base: Literal["thin", "same_evidence"] = Field(
        "same_evidence", description="what a re-ranker and the first stage see of an item and a history"
    )
    list_length: int = Field(10, ge=2, description="candidates of a list; fewer where a user has met nearly every item")
    real_items: int = Field(4, ge=1, description="consecutive examples of the user in a list; at least one is positive")
    negatives: Literal["uniform", "popularity"] = Field(
        "uniform",
        description="how the rest of a list is drawn from the items that its user never met: each alike (KAR's), or by their training count",
    )
    lists_per_user: int | None = Field(20, ge=1, description="drawn lists of a user in a split; none: all")
    draw_seed: int = Field(1, description="of the lists: which are kept, their negatives, the order of equals")
    first_stage: Literal["ranker", "popularity"] = Field(
        "ranker",
        description="what puts a list into its initial order. ranker: the base FiBiNET over single candidates, each half of the training users scored "
        "by one trained on the other half; popularity: how many other users' training examples are of the item",
    )
    first_stage_epochs: int = Field(1, ge=1)
    hidden: int = Field(64, ge=2, description="width inside a re-ranker; a multiple of heads")
    heads: int = Field(2, ge=1)
    blocks: int = Field(2, ge=1, description="attention blocks of PRM and SetRank")
    dropout: float = Field(0.1, ge=0, lt=1)
    item_id_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the training candidates whose item id is hidden, in all arms alike"
    )
    batch_size: int = Field(256, ge=1, description="lists")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    epochs: int = Field(10, ge=1)
    patience: int = Field(2, ge=1, description="epochs without a better NDCG on valid before stopping")
    resamples: int = Field(1000, ge=100, description="paired bootstrap over users")
    processes: int | None = Field(
        None, ge=1, description="trainings side by side, one thread each; none: one per core", json_schema_extra=_NOT_IN_RECIPE
    )

    _once = field_validator("models", "arms", "seeds")(_each_once)

    _known = field_validator("arms")(_known_arms)

    @model_validator(mode="after")
    def _sizes_fit(self) -> RerankSettings:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is no multiple of heads {self.heads}")
        if self.real_items > self.list_length:
            raise ValueError(f"real_items {self.real_items} do not fit a list of {self.list_length}")
        return self


class RetrievalSettings(Section):
    """[retrieval]: LLM-Rec's own evaluation; every arm with the same widths, epochs and seeds."""

    arms: list[RetrievalArm] = Field(
        ["popularity", "id", "original", "views", "all", "permuted"],
        min_length=1,
        description="original: item.raw; views: each view of knowledge alone; all: all of them, each through its own first layer; enriched: all and "
        "item.raw, as in the paper; noise: random words of as many (vectors.controls); permuted: all, shuffled among the items",
    )
    views: list[View] = Field(
        default_factory=list, description="views of items to judge; empty: every whole view that has vectors (no factor's, no control's)"
    )
    protocols: list[Literal["random", "temporal"]] = Field(["random", "temporal"], min_length=1)
    splits: int = Field(5, ge=1, description="random splits, 8:1:1 of each user's items; there is one temporal split")
    seeds: list[int] = Field([1], min_length=1, description="of weights and negatives, in each split")
    draw_seed: int = Field(1, description="of the splits, and of the order of items with equal scores")
    seen: Literal["refuse", "leave_out", "mark"] = Field(
        "refuse",
        description="a view with texts that have seen what a protocol's splits ask. leave_out: not in that protocol; mark: trained all the same, rows "
        "marked has_seen",
    )
    hidden: int = Field(64, ge=1, description="width of the first layers and of the table of users")
    width: int = Field(64, ge=1, description="of both towers' ends")
    dropout: float = Field(0.2, ge=0, lt=1)
    negatives: int = Field(
        256, ge=1, description="items drawn for each batch; for each positive those count that its user did not meet in train"
    )
    batch_size: int = Field(2048, ge=1, description="positives")
    learning_rate: float = Field(5e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    epochs: int = Field(40, ge=1)
    patience: int = Field(
        5, ge=1, description="epochs without a better NDCG@10 on valid before stopping; ids stand still at popularity for a few"
    )
    resamples: int = Field(1000, ge=100, description="paired bootstrap over users")
    threads: int = Field(1, ge=1, json_schema_extra=_NOT_IN_RECIPE)

    _once = field_validator("arms", "views", "protocols", "seeds")(_each_once)

    @property
    def needs_views(self) -> bool:
        """Whether an arm needs a view of knowledge."""
        return bool({"views", "all", "enriched", "noise", "permuted"} & set(self.arms))

    @field_validator("views")
    @classmethod
    def _views_are_of_items(cls, value: list[View]) -> list[View]:
        if strange := [view for view in value if not view.startswith("item.") or view == "item.raw" or "@" in view]:
            raise ValueError(f"{strange[0]!r} is no view of knowledge about items; item.raw and the controls are arms")
        return value


class PromotionSettings(Section):
    """[features.gate]: what a release must show before CURRENT moves to it (kar/release/gate.py). "Last" is the release that is served."""

    min_sample: int = Field(30, ge=2, description="a statistic of fewer subjects, or answers, is not measured")
    min_rows_share: float = Field(0.9, ge=0, le=1, description="rows of a side, as a share of the last release's")
    max_rows_share: float = Field(10.0, ge=1, description="the same upwards")
    min_kept_share: float = Field(0.9, ge=0, le=1, description="share of the last release's ids that must still be there")
    max_norm_change: float = Field(
        0.25, gt=0, description="how far a view's mean vector length may move from the last release's, as a share of it"
    )
    max_norm_spread: float = Field(50.0, ge=1, description="the longest vector of a view, in median lengths")
    min_effective_rank: float = Field(
        1.05,
        ge=0,
        description="of a view's vectors; all on one line is 1. Real releases' adapted vectors had 2.5 to 5.3, of an adaptor trained for two small "
        "epochs 1.25 to 1.9",
    )
    min_effective_rank_share: float = Field(0.5, ge=0, le=1, description="the same, as a share of the last release's in the same space")
    max_mean_cosine: float = Field(
        0.9999,
        gt=0,
        le=1,
        description="of two different subjects of a view; all alike is 1. Real releases' adapted vectors had 0.86 to 0.98, of an adaptor trained for "
        "two small epochs, whose bias is most of every vector, up to 0.9992",
    )
    min_unchanged_cosine: float = Field(
        0.9999,
        gt=0,
        le=1,
        description="of every subject whose text is the last release's, in the same space: 1, but for the last digits of another machine's arithmetic",
    )
    min_changed_cosine: float = Field(0.2, ge=-1, le=1, description="mean over the subjects whose text changed")
    min_coverage: float = Field(0.0, ge=0, le=1, description="share of a side's rows that each of its views must cover")
    max_coverage_drop: float = Field(0.05, ge=0, le=1, description="how far a view's coverage may fall below the last release's")
    max_rejected_share: float = Field(0.8, gt=0, le=1, description="of tonight's answers in a view; a very small model was seen at 0.64")
    max_reason_rise: float = Field(0.25, gt=0, le=1, description="how far one reason's share of the answers may rise over the night before")


class FeaturesSettings(Section):
    """[features]"""

    published: str = Field(
        "",
        pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/?#@\s]+)*)?$",
        description="s3://bucket/prefix: publish there instead of in the scenario's folder (needs kar[s3]); credentials and endpoint come from "
        "AWS_ variables or AWS's own files, never from here",
    )
    promote: bool = Field(True, description="move CURRENT when the release's data_cutoff is newer")
    require_uplift: bool = Field(
        False,
        description="promote only where the verdict is that knowledge helps: it beats text, permuted and base, over a base that sees what the prompt saw",
    )
    history_vectors: bool | None = Field(
        None,
        description="publish per user the mean adapted vector of the liked and of the disliked items of their history; none: as "
        "adaptor.history_knowledge",
    )
    active_days: int = Field(30, ge=1, description="a user or item with an interaction in so many days before the cutoff is active")
    compact_at: float = Field(
        0.25, ge=0, le=1, description="share of a bucket's subjects that its layers may hold before it is written whole again"
    )
    keep: int = Field(
        30,
        ge=1,
        description="kar release collect leaves so many of the releases served last, and as many of those never served; an as-of join "
        "reaches as far back",
        json_schema_extra=_NOT_IN_RECIPE,
    )
    publisher_wait_s: float = Field(
        600.0, ge=0, description="how long to wait for another publisher of the same folder", json_schema_extra=_NOT_IN_RECIPE
    )
    gate: PromotionSettings = PromotionSettings()


class ReportSettings(Section):
    """[report]"""

    reading_count: int = Field(10, ge=0, description="users and items with history, prompt and knowledge to read")
    seed: int = 1


class Settings(Section):
    """A whole settings file."""

    scenario: ScenarioSettings
    sources: SourcesSettings
    histories: HistoriesSettings = HistoriesSettings()
    prompts: PromptsSettings = PromptsSettings()
    llm: LLMSettings = LLMSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    vectors: VectorsSettings = VectorsSettings()
    examples: ExamplesSettings = ExamplesSettings()
    adaptor: AdaptorSettings = AdaptorSettings()
    rerank: RerankSettings = RerankSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    features: FeaturesSettings = FeaturesSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _factor_views_are_encoded(self) -> Settings:
        for view in [*self.adaptor.user_views, *self.adaptor.item_views]:
            base, colon, _ = view.partition(":")
            if colon and base not in self.vectors.per_factor:
                raise ValueError(f"the adaptor is to use {view}, and vectors.per_factor does not name {base}")
        return self

    def snapshot_date(self, date: dt.date) -> dt.date:
        """The date whose knowledge the training examples of `date` may meet."""
        return date if self.histories.mode == "per_user" else date - dt.timedelta(days=self.examples.window_days)
