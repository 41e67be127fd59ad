"""The declarations. Add a column here first; the stage that writes it and the ones that read it follow."""

from __future__ import annotations

from kar.tables.schema import Column, Table

_USER = Column("user_id", "user_id", "the user, as the source names them")
_ITEM = Column("item_id", "item_id", "the item, as the source names it")
_VIEW = Column("view", "string", "kind of knowledge, e.g. user.preference, item.facts; of vectors also item.facts:mood, one factor of it")
_SUBJECT = Column("subject_id", "string", "the user or item the view is about, as text")
_EVENT_AT = Column("event_at", "time", "when the interaction happened, UTC")
_CUTOFF = Column("cutoff_at", "time", "nothing at or after it was shown to the prompt; UTC")
_EVIDENCE = (
    Column("evidence_users", "list<string>", "users of the interactions that the prompt saw, oldest first, as text"),
    Column("evidence_items", "list<string>", "items of the interactions that the prompt saw, same order, as text"),
    Column("evidence_newest_at", "time", "newest interaction that the prompt saw; null: it saw none", is_nullable=True),
)

_SHOWN_NEIGHBOURS = Column(
    "neighbour_items", "list<string>", "items that the prompt showed beside its own, the nearest first, as text; empty: none"
)

_SLICE = Column(
    "slice",
    "string",
    "all · warm · cold · covered · uncovered · held_out · by training count item:0 · item:1-5 · item:6-20 · item:21-100 · item:101+ · user:…",
)
_BASE = Column("base", "string", "thin · same_evidence · rich")
_BACKBONE = Column("backbone", "string", "fibinet · din · …")
_ARM = Column("arm", "string", "base · text · knowledge · permuted · …")
_ARM_A = Column("arm_a", "string", "the arm that is judged")
_SEED = Column("seed", "int64", "seed of the run")
_SPLIT = Column("split", "string", "valid · test")
_SEED_COUNT = Column("seed_count", "int64", "seeds averaged")
_PROTOCOL = Column("protocol", "string", "random · temporal")
_RETRIEVAL_ARM = Column("arm", "string", "popularity · id · original · item.VIEW · all · enriched · noise · permuted")
_USERS_DRAWN = Column("user_count", "int64", "users resampled")
_RESAMPLES = Column("resamples", "int64", "bootstrap resamples")
_HIGH = Column("high", "float64", "97.5 % of the paired bootstrap over users")

_TABLES = (
    # ---- sources
    Table("user", "one row per user", ("user_id",), (_USER,)),
    Table(
        "item",
        "one row per item",
        ("item_id",),
        (
            _ITEM,
            Column("title", "string", "display name; null: the source has none", is_nullable=True),
            Column("description", "string", "prose of the source; null: none", is_nullable=True),
        ),
    ),
    Table(
        "user_attribute",
        "one row per user, attribute and value",
        ("user_id", "name", "value"),
        (_USER, Column("name", "string", "attribute, e.g. age"), Column("value", "string", "its value as text")),
    ),
    Table(
        "item_attribute",
        "one row per item, attribute and value",
        ("item_id", "name", "value"),
        (
            _ITEM,
            Column("name", "string", "attribute, e.g. genre"),
            Column("value", "string", "one value as text; a list gives several rows"),
            Column("place", "int32", "0-based place of the value in the source's list"),
        ),
    ),
    Table(
        "interaction",
        "one user–item event before the end of the partition date",
        ("user_id", "event_at", "tie_key", "item_id"),
        (
            _USER,
            _ITEM,
            _EVENT_AT,
            Column("tie_key", "int64", "hash that orders events of one user within one second"),
            Column("rating", "float64", "stars or similar; null: the source has none", is_nullable=True),
            Column("click", "bool", "whether it was a click; null: the source has none", is_nullable=True),
            Column("text", "string", "what the user wrote (review); null: nothing", is_nullable=True),
        ),
    ),
    # ---- histories
    Table(
        "history",
        "one row per user with an event before the cutoff",
        ("user_id",),
        (
            _USER,
            Column("subject_id", "string", "user_id as text"),
            Column("cutoff_at", "time", "end of the partition date (time) or the newest history event (per_user); UTC"),
            Column("position", "int64", "events of the user before the cutoff, shown or not; examples start here"),
            Column("item_ids", "list<item_id>", "items of the newest `cap` events before the cutoff, oldest first"),
            Column("ratings", "list<float64>", "their ratings; NaN where the source has none"),
            Column("event_ats", "list<time>", "their times, UTC"),
            Column("titles", "list<string>", "what stands for the item in a prompt: title, own words, or id"),
            Column("newest_event_at", "time", "the newest of them"),
            Column("evidence_sha", "string", "digest of item_ids, ratings and event_ats"),
        ),
    ),
    Table(
        "item_profile",
        "one row per item: what may be said of it at the cutoff",
        ("item_id",),
        (
            _ITEM,
            Column("subject_id", "string", "item_id as text"),
            _CUTOFF,
            Column("title", "string", "display name; null: the source has none", is_nullable=True),
            Column("text", "string", "title, attributes and description, or words of reviews before the cutoff; may be empty"),
            Column("event_count", "int64", "interactions before the cutoff (history events only in per_user mode)"),
            Column("rating_mean", "float64", "mean rating of those; null: none", is_nullable=True),
            Column("evidence_sha", "string", "digest of title and text"),
            *_EVIDENCE,
        ),
    ),
    Table(
        "item_neighbour",
        "one row per item and neighbour; none where histories.neighbours.source is none",
        ("item_id", "rank"),
        (
            _ITEM,
            Column("rank", "int64", "0 is the nearest"),
            Column("neighbour_id", "item_id", "the item that stands beside it"),
            Column(
                "score",
                "float64",
                "engagement: share of a walk from the item that is spent at the neighbour (Personalized PageRank), by histories.neighbours.discount",
            ),
            Column(
                "evidence_newest_at",
                "time",
                "newest interaction of the graph; UTC; null in per_user mode, where it ends for each user at their own cut",
                is_nullable=True,
            ),
        ),
    ),
    # ---- prompts
    Table(
        "plan",
        "one row per view and subject that could be asked",
        ("view", "subject_id"),
        (
            _VIEW,
            _SUBJECT,
            Column("decision", "string", "ask · fresh · over_budget · refused · imported · empty"),
            Column("reason", "string", "why it is due: new · evidence · drift · template · model · age; empty if it is not"),
            Column("rank", "int64", "0 is asked first; -1: not asked"),
            Column("value", "float64", "expected value per token: traffic × staleness / tokens"),
            Column("prompt_tokens", "int64", "tokens of the rendered prompt by the served model's tokenizer, or an estimate"),
            Column("answer_tokens", "int64", "most tokens the answer may take"),
            Column("history_shown", "int64", "history events in the prompt"),
            Column("history_dropped", "int64", "history events left out, oldest first, to fit the cap of tokens"),
            Column("request_key", "string", "digest of the request; empty unless it is asked, or was refused before"),
            Column("template_id", "string", "template that rendered it; empty if imported"),
            Column("template_version", "string", "version and digest of that template, as id@version:digest"),
            Column("form", "string", "in which its answer is asked for: prose · factors (one text each); prose if imported"),
            Column("evidence_sha", "string", "digest of what the prompt saw of the subject"),
            Column("cutoff_at", "time", "nothing at or after it was shown; UTC"),
            *_EVIDENCE,
            _SHOWN_NEIGHBOURS,
        ),
    ),
    Table(
        "request",
        "one row per request to send, in the order to send them",
        ("place",),
        (
            Column("place", "int64", "0 is sent first"),
            _VIEW,
            _SUBJECT,
            Column("request_key", "string", "digest of body and revision"),
            Column("revision", "string", "of the model, as in the key; empty: not reported"),
            Column("family", "string", "what shares its beginning with it: template version and shared block"),
            Column("body", "string", "the exact JSON body to send"),
            Column("prompt_tokens", "int64", "as in the plan"),
            Column("answer_tokens", "int64", "as in the plan"),
            Column("template_version", "string", "as in the plan"),
            Column("form", "string", "as in the plan"),
        ),
        row_group_rows=4_096,
    ),
    # ---- knowledge
    Table(
        "knowledge",
        "one row per view and subject with accepted text",
        ("view", "subject_id"),
        (
            _VIEW,
            _SUBJECT,
            Column("text", "string", "the accepted text"),
            Column("origin", "string", "tonight · last_good · import"),
            Column("model", "string", "which model wrote it, as the server names it"),
            Column("model_revision", "string", "its revision as the server reports it; empty: not reported"),
            Column("template_version", "string", "id@version:digest of the template; empty if imported"),
            Column("request_key", "string", "the ledger's key; for imports the digest of the imported line"),
            Column("evidence_sha", "string", "digest of what the prompt saw of the subject; empty if imported"),
            _CUTOFF,
            Column("asked_at", "time", "when the answer was written, UTC; for imports when it was imported"),
            Column("prompt_tokens", "int64", "as the server counted; 0 for imports"),
            Column("completion_tokens", "int64", "as the server counted; 0 for imports"),
            *_EVIDENCE,
            _SHOWN_NEIGHBOURS,
        ),
    ),
    Table(
        "factor_knowledge",
        "one row per view, subject and factor with accepted text",
        ("view", "subject_id", "factor"),
        (
            _VIEW,
            _SUBJECT,
            Column("factor", "string", "key of the domain's factor, e.g. mood; empty: one text about all of them (prose, imports)"),
            Column("text", "string", "what is known of the subject in that factor"),
        ),
    ),
    Table(
        "refused",
        "one row per answer or import that was not accepted",
        ("view", "subject_id", "reason", "request_key"),
        (
            _VIEW,
            _SUBJECT,
            Column("reason", "string", "a reason of the knowledge stage"),
            Column("detail", "string", "what exactly was seen"),
            Column("answer", "string", "the refused text, first 2,000 characters"),
            Column("request_key", "string", "the ledger's key, as in the plan; for imports the digest of the imported line"),
            Column("has_fallback", "bool", "whether the last good knowledge stands in"),
        ),
    ),
    Table(
        "pace",
        "one row per server and look at it while the model was asked; none on a night without a question",
        ("endpoint", "second"),
        (
            Column("endpoint", "int64", "place in llm.endpoints, 0 first"),
            Column("second", "float64", "since the asking began"),
            Column("window", "float64", "most requests that might be in flight"),
            Column("in_flight", "int64", "requests of this run at the server"),
            Column("waiting", "int64", "requests in the server's queue, of all clients; -1: it does not say"),
            Column("running", "int64", "requests the server works on, of all clients; -1: it does not say"),
            Column("kv_share", "float64", "of the server's cache that is in use, 0-1; NaN: it does not say"),
            Column("preemptions", "int64", "requests thrown out of its cache since the asking began; -1: it does not say"),
            Column("answered", "int64", "good answers of this run from this server so far"),
            Column("tokens_per_s", "float64", "answer tokens since the look before"),
            Column(
                "prefix_hit_share", "float64", "of the prompt tokens since the look before, from the prefix cache; NaN: it does not say"
            ),
        ),
    ),
    # ---- vectors
    Table(
        "knowledge_vector",
        "one row per view and subject; views *.raw hold the text arm's vectors, views like item.facts:mood one factor's, item.facts@noise a control's",
        ("view", "subject_id"),
        (
            _VIEW,
            _SUBJECT,
            Column("text_sha", "string", "digest of the encoded text"),
            Column("encoder_id", "string", "encoder and its digest, pooling and limit"),
            Column("n_tokens", "int32", "tokens of the text before truncation, special tokens included"),
            Column("truncated", "bool", "whether the encoder's limit cut it"),
            Column("vector", "vector", "mean-pooled, L2-normalised encoder output"),
        ),
    ),
    Table(
        "item_edge",
        "one row per relation and two items that it joins, once from either end; none where vectors.edges names no view",
        ("relation", "item_id", "near_item_id"),
        (
            Column(
                "relation", "string", "view whose vectors are near, e.g. item.facts; item.facts@random: random edges of the same degrees"
            ),
            _ITEM,
            Column("near_item_id", "item_id", "the item at the other end"),
            Column("score", "float64", "cosine of the two vectors; of a random edge: that of another edge"),
            Column("encoder_id", "string", "encoder of the vectors"),
            Column(
                "evidence_newest_at", "time", "newest interaction that either text has seen; UTC; null: they saw none", is_nullable=True
            ),
            _CUTOFF,
        ),
    ),
    # ---- examples
    Table(
        "sequence",
        "one row per interaction of the partition, in each user's order",
        ("user_id", "position"),
        (
            _USER,
            Column("position", "int64", "0-based place in the user's order (event_at, tie_key, item_id)"),
            _ITEM,
            _EVENT_AT,
            Column("rating", "float64", "NaN where the source has none"),
            Column("label", "int32", "1 or 0 by the label rule; −1: the source says nothing"),
        ),
    ),
    Table(
        "example_item",
        "one row per item of the sequence: what a training may know of it",
        ("item_id",),
        (
            _ITEM,
            Column("is_held_out", "bool", "whether it is never trained on and its id is hidden (examples.held_out_items)"),
            Column(
                "evidence_newest_at", "time", "newest event that any text about it has seen; UTC; null: they saw none", is_nullable=True
            ),
        ),
    ),
    Table(
        "example",
        "one row per labelled example",
        ("example_id",),
        (
            Column("example_id", "int64", "row number in (user_id, position) order"),
            _USER,
            _ITEM,
            _EVENT_AT,
            Column("position", "int64", "the example's own place in the user's order; its history ends before it"),
            Column("label", "int32", "1 or 0 by the label rule"),
            Column("split", "string", "train · valid · test"),
            Column("has_user_knowledge", "bool", "whether knowledge of the user may serve it"),
            Column("has_item_knowledge", "bool", "whether knowledge of the item may serve it"),
        ),
    ),
    # ---- adaptor
    Table(
        "metric",
        "one row per base, backbone, arm, seed, split, slice and metric",
        ("base", "backbone", "arm", "seed", "split", "slice", "metric"),
        (
            _BASE,
            _BACKBONE,
            _ARM,
            _SEED,
            _SPLIT,
            _SLICE,
            Column(
                "metric", "string", "auc · gauc · logloss · ece · head_share; slices by training count have auc alone, head_share is of all"
            ),
            Column("value", "float64", "NaN: not defined on this slice (one class only, or no rows)"),
            Column("example_count", "int64", "rows of the slice"),
            Column("user_count", "int64", "users of the slice"),
        ),
    ),
    Table(
        "comparison",
        "one row per base, backbone, pair of arms, slice and metric: arm_a − arm_b on the test examples, seeds averaged",
        ("base", "backbone", "arm_a", "arm_b", "slice", "metric"),
        (
            _BASE,
            _BACKBONE,
            _ARM_A,
            Column("arm_b", "string", "the arm it is judged against"),
            _SLICE,
            Column("metric", "string", "auc · gauc · logloss"),
            Column("difference", "float64", "arm_a − arm_b; NaN: not defined on this slice"),
            Column("low", "float64", "2.5 % of the paired bootstrap over users; NaN: not defined, or one or two users decide it"),
            _HIGH,
            Column("se", "float64", "standard error: the resamples' standard deviation"),
            Column("p", "float64", "two-sided, of the difference in standard errors"),
            Column("p_holm", "float64", "the same after Holm's correction over the family; p where the comparison stands alone"),
            Column("family", "string", "ablations: of one slice and metric · slices: of one pair and metric · empty: stands alone"),
            Column("family_count", "int64", "comparisons of the family; 1: stands alone"),
            Column(
                "detectable",
                "float64",
                "smallest true difference that would be found with 80 % power at 5 % two-sided: 2.8 standard errors",
            ),
            _SEED_COUNT,
            Column("example_count", "int64", "test examples of the slice"),
            _USERS_DRAWN,
            _RESAMPLES,
        ),
    ),
    Table(
        "calibration",
        "one row per base, backbone, arm, seed and decile of the test examples by prediction",
        ("base", "backbone", "arm", "seed", "decile"),
        (
            _BASE,
            _BACKBONE,
            _ARM,
            _SEED,
            Column("decile", "int64", "0 holds the lowest predictions; of equal mass, equal predictions in one"),
            Column("example_count", "int64", "its examples"),
            Column("predicted", "float64", "mean predicted probability; NaN: no examples"),
            Column("actual", "float64", "share of positive labels; NaN: no examples"),
            Column("ratio", "float64", "predicted / actual; NaN: nothing was positive"),
        ),
    ),
    Table(
        "prediction",
        "one row per base, backbone, arm and test example, seeds averaged on the logit scale",
        ("base", "backbone", "arm", "example_id"),
        (
            _BASE,
            _BACKBONE,
            _ARM,
            Column("example_id", "int64", "the example"),
            Column("logit", "float32", "mean logit over seeds"),
        ),
    ),
    Table(
        "epoch",
        "one row per base, backbone, arm, seed and epoch",
        ("base", "backbone", "arm", "seed", "epoch"),
        (
            _BASE,
            _BACKBONE,
            _ARM,
            _SEED,
            Column("epoch", "int64", "0-based"),
            Column("train_loss", "float64", "mean training loss over the epoch: BCE, and the weighted alignment where it is on"),
            Column("valid_auc", "float64", "on the valid examples"),
            Column("valid_logloss", "float64", "on the valid examples"),
            Column("is_chosen", "bool", "the epoch whose weights were kept; chosen on valid"),
        ),
    ),
    Table(
        "study",
        "one row per base, backbone, arm and hyper-parameter trial; none if adaptor.trials is 0",
        ("base", "backbone", "arm", "trial"),
        (
            _BASE,
            _BACKBONE,
            _ARM,
            Column("trial", "int64", "0-based; 0 tries the settings as they are"),
            Column("state", "string", "complete · failed (its loss was no longer finite)"),
            Column("valid_auc", "float64", "on the valid examples, of its best epoch; NaN: it failed"),
            Column("seconds", "float64", "that it took"),
            Column("parameters", "string", "what it tried, as JSON with sorted keys"),
            Column("is_chosen", "bool", "whether the arm's trainings took these: the best on valid, the earliest of equals"),
        ),
    ),
    Table(
        "gate_weight",
        "one row per base, backbone, view and expert of the knowledge arm's best seed; none where the adaptor's form has no gate",
        ("base", "backbone", "view", "expert"),
        (
            _BASE,
            _BACKBONE,
            _VIEW,
            Column("expert", "string", "shared:0 …: all views use it; own:0 …: this view alone"),
            Column("weight", "float64", "mean gate weight over the subjects that have a vector; a view's weights sum to 1"),
            Column("subject_count", "int64", "those subjects"),
        ),
    ),
    Table(
        "view_use",
        "one row per base, backbone, view and place: how much the knowledge arm's best seed leans on the view",
        ("base", "backbone", "view", "left_out"),
        (
            _BASE,
            _BACKBONE,
            _VIEW,
            Column(
                "left_out",
                "string",
                "everywhere · target · history: where the view's vectors are replaced by its learned default when predicting",
            ),
            Column("seed", "int64", "the knowledge arm's seed with the best AUC on valid"),
            Column("auc_drop", "float64", "AUC on valid with the view − without it; above 0: the ranker leans on it; NaN: not defined"),
            Column("logloss_rise", "float64", "LogLoss on valid without the view − with it"),
            Column("example_count", "int64", "valid examples it was measured on"),
            Column("subject_count", "int64", "subjects that have a vector of the view"),
            Column("mean_norm", "float64", "mean length of their adapted vectors as they enter the backbone; NaN: there are none"),
            Column("residual_gate", "float64", "the factor by which they enter; NaN: adaptor.residual_gate is off"),
        ),
    ),
    # ---- rerank
    Table(
        "rerank_list",
        "one row per candidate list, its items in the initial order",
        ("list_id",),
        (
            Column("list_id", "int64", "row number"),
            _USER,
            Column("split", "string", "train · valid · test"),
            Column("position", "int64", "of its first real item in the user's order; the list's history ends before it"),
            Column("item_ids", "list<item_id>", "candidates in the order of the first stage, best first"),
            Column("labels", "list<float64>", "1: a real example with label 1; 0: one with label 0, or a drawn negative"),
            Column("positions", "list<float64>", "a real item's place in the user's order; −1: a negative, which the user never met"),
            Column("scores", "list<float64>", "of the first stage, falling"),
        ),
    ),
    Table(
        "rerank_metric",
        "one row per model, arm, seed, split, metric and cut",
        ("model", "arm", "seed", "split", "metric", "k"),
        (
            Column("model", "string", "dlcm · prm · setrank · mir; initial: the list as the first stage ordered it"),
            Column("arm", "string", "base · text · knowledge · permuted · …; of initial: first_stage"),
            Column("seed", "int64", "seed of the run; of initial: 0"),
            _SPLIT,
            Column("metric", "string", "map · ndcg · kar_map (AP divided by the hits inside k, as in KAR's code)"),
            Column("k", "int64", "1 · 3 · 5 · 7"),
            Column("value", "float64", "mean over the lists"),
            Column("list_count", "int64", "lists of the split"),
            Column("user_count", "int64", "their users"),
        ),
    ),
    Table(
        "rerank_comparison",
        "one row per model, pair of arms, metric and cut: arm_a − arm_b on the test lists, seeds averaged",
        ("model", "arm_a", "arm_b", "metric", "k"),
        (
            Column("model", "string", "dlcm · prm · setrank · mir"),
            _ARM_A,
            Column("arm_b", "string", "the arm it is judged against; first_stage: the initial list"),
            Column("metric", "string", "map · ndcg · kar_map"),
            Column("k", "int64", "1 · 3 · 5 · 7"),
            Column("difference", "float64", "arm_a − arm_b"),
            Column("low", "float64", "2.5 % of the paired bootstrap over users"),
            _HIGH,
            _SEED_COUNT,
            _USERS_DRAWN,
            _RESAMPLES,
        ),
    ),
    # ---- retrieval
    Table(
        "retrieval_metric",
        "one row per protocol, arm, split, seed and metric: all items ranked for each user who has one to find in the split's test part",
        ("protocol", "arm", "split", "seed", "metric"),
        (
            _PROTOCOL,
            _RETRIEVAL_ARM,
            Column("split", "int64", "number of the split; temporal has 0 alone"),
            Column("seed", "int64", "seed of the training; of popularity: 0"),
            Column("metric", "string", "p@10 (not where every user has exactly one item to find: it would be r@10 / 10) · r@10 · ndcg@10"),
            Column("value", "float64", "mean over the users"),
            Column("user_count", "int64", "users with something to find"),
            Column("has_seen", "bool", "whether texts of the arm have seen what the splits ask (retrieval.seen = 'mark')"),
        ),
    ),
    Table(
        "retrieval_comparison",
        "one row per protocol, pair of arms and metric: arm_a − arm_b, splits and seeds averaged",
        ("protocol", "arm_a", "arm_b", "metric"),
        (
            _PROTOCOL,
            _ARM_A,
            Column("arm_b", "string", "the arm it is judged against"),
            Column("metric", "string", "as in retrieval_metric"),
            Column("difference", "float64", "arm_a − arm_b"),
            Column("low", "float64", "2.5 % of the paired bootstrap over users; NaN: one or two users decide it"),
            _HIGH,
            Column("split_count", "int64", "splits averaged; a user is drawn with all of them"),
            _SEED_COUNT,
            _USERS_DRAWN,
            _RESAMPLES,
            Column("has_seen", "bool", "whether texts of either arm have seen what the splits ask"),
        ),
    ),
    # ---- features
    Table(
        "release",
        "one row: the release this partition published",
        ("release_id",),
        (
            Column("release_id", "string", "folder name under published/releases"),
            Column("space_id", "string", "the vector space it lives in"),
            Column(
                "data_cutoff", "time", "newest interaction that any of its knowledge has seen; UTC; null: it saw none", is_nullable=True
            ),
            Column("published_at", "time", "when it was published; UTC"),
            Column(
                "is_promoted", "bool", "whether CURRENT pointed at it as soon as it was published; what is served now says CURRENT alone"
            ),
            Column("is_reconstructed", "bool", "whether it was made after its date (a newer model may know the future)"),
            Column("manifest_sha", "string", "sha256 of its manifest.json"),
            Column("user_count", "int64", "rows of user_knowledge"),
            Column("item_count", "int64", "rows of item_knowledge"),
            Column("user_covered_share", "float64", "share of users with knowledge"),
            Column("item_covered_share", "float64", "share of items with knowledge"),
        ),
    ),
)

TABLES: dict[str, Table] = {table.name: table for table in _TABLES}
