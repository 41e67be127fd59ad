"""What the page says of a run whose numbers are known."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import pytest

from kar import flow, run
from kar.store import Manifest
from tests.page import fake_home
from tests.page.fake_home import AS_OF, DATE, Plan
from tests.page.fake_training import KINDS
from tests.page.parsed import Parsed


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fake_home.page(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def parsed(html: str) -> Parsed:
    return Parsed(html)


def words(tmp_path: Path, plan: Plan) -> str:
    return Parsed(fake_home.page(tmp_path, plan)).text


# ---- the document


def test_every_tag_is_closed_in_order_and_every_id_is_used_once(parsed: Parsed) -> None:
    assert parsed.faults == []
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) >= 9


def test_the_page_loads_nothing_and_runs_nothing(html: str, parsed: Parsed) -> None:
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "video", "audio"}
    named = [(name, value) for _, attributes in parsed.elements for name, value in attributes.items()]
    assert len(named) > 500
    assert not [name for name, _ in named if name.startswith("on") or name in ("src", "srcset", "xlink:href", "formaction")]
    assert all(value.startswith("#") for name, value in named if name == "href")
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", html)


def test_a_policy_in_the_page_forbids_what_it_does_not_need(parsed: Parsed) -> None:
    policies = [meta["content"] for meta in parsed.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_every_link_of_the_page_leads_to_a_place_on_it(parsed: Parsed) -> None:
    ids = {attributes.get("id") for _, attributes in parsed.elements}
    links = [attributes["href"][1:] for attributes in parsed.of("a")]
    assert len(links) >= 9
    assert set(links) <= ids


def test_a_reader_who_cannot_see_finds_landmarks_one_headline_and_labelled_plots(parsed: Parsed) -> None:
    tags = [tag for tag, _ in parsed.elements]
    assert [tags.count(tag) for tag in ("header", "nav", "main", "footer", "h1")] == [1, 1, 1, 1, 1]
    assert all(section.get("aria-labelledby") for section in parsed.of("section"))
    outer = [svg for svg in parsed.of("svg") if "class" in svg]
    assert len(outer) > 40
    assert all(svg.get("aria-hidden") == "true" or (svg.get("role") == "img" and svg.get("aria-label")) for svg in outer)
    assert all(div.get("tabindex") == "0" and div.get("aria-label") for div in parsed.of("div") if div.get("class") == "scroll")


def test_the_page_says_its_language_and_follows_the_reader_s_light(html: str, parsed: Parsed) -> None:
    assert parsed.of("html") == [{"lang": "en"}]
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


# ---- the verdict


@pytest.mark.parametrize(
    ("kind", "opening"),
    [
        ("helps", "Over the same evidence, knowledge beats raw text by +0.0034 AUC (95 % +0.0012 … +0.0056); beats shuffled knowledge by"),
        ("beats_base_only", "Over the same evidence, knowledge does not beat raw text: −0.0011 AUC (95 % −0.0034 … +0.0013)"),
        ("no_difference", "Over the same evidence, knowledge makes no difference: −0.0004 AUC against raw text"),
        ("hurts", "Over the same evidence, knowledge hurts: −0.0048 AUC against the base (95 % −0.0070 … −0.0027)"),
        ("too_few", "Too few test users to tell: over the same evidence, knowledge stands at +0.0052 AUC against raw text"),
        ("not_measured", "Whether knowledge helps over the same evidence was not measured"),
    ],
)
def test_the_headline_is_the_verdict_with_its_interval(tmp_path: Path, kind: str, opening: str) -> None:
    made, home = fake_home.build(tmp_path, Plan(kind=kind))
    manifest = run.run_stage("report", made, home, DATE, AS_OF)
    page = Parsed((home.partition("report", DATE).path / "index.html").read_text())
    assert page.headline.replace("\u00a0", " ").startswith(opening)
    assert manifest.figures["verdict"] == kind


def test_the_verdict_is_the_published_backbone_s(tmp_path: Path) -> None:
    plan = Plan(
        settings={"adaptor": {"published_backbone": "din"}},
        edit={"comparison": lambda rows: [r for r in rows if r["backbone"] == "fibinet"]},
    )
    page = Parsed(fake_home.page(tmp_path, plan))
    assert "not measured" in page.headline
    assert "Judged on DIN" in page.text


def test_the_controls_are_explained_in_a_line_each(parsed: Parsed) -> None:
    assert "titles and metadata through the same encoder and adaptor" in parsed.text
    assert "the very same texts, handed to the wrong users and items" in parsed.text


def test_a_local_model_is_called_a_stand_in_and_a_served_one_is_not(parsed: Parsed, tmp_path: Path) -> None:
    assert "The local model is a stand-in" in parsed.text
    assert "smollm2-135m-instruct" in parsed.text
    assert "stand-in" not in words(tmp_path, Plan(provider="openai"))


def test_imported_texts_are_not_blamed_on_the_local_model(tmp_path: Path) -> None:
    text = words(tmp_path, Plan(edit={"knowledge": lambda rows: [r | {"origin": "import", "model": "a careful friend"} for r in rows]}))
    assert "stand-in" not in text
    assert "a careful friend" in text
    assert "and imported" in text


def test_a_base_that_sees_less_than_the_prompt_is_called_uneven(parsed: Parsed, tmp_path: Path) -> None:
    assert "The comparison is even: the base sees the newest 30 events" in parsed.text
    text = words(tmp_path, Plan(base="thin"))
    assert "The comparison is not even: the base sees the newest 5 events of a history, a prompt up to 30" in text


def test_in_time_mode_the_page_says_whose_knowledge_the_arms_met(tmp_path: Path) -> None:
    text = words(tmp_path, Plan(settings={"histories": {"mode": "time"}, "examples": {"window_days": 30}}))
    assert "trained with the knowledge of 2026-10-20" in text


def test_warnings_of_the_stages_stand_near_the_top(parsed: Parsed) -> None:
    assert parsed.text.index("the valid split holds 2 users only") < parsed.text.index("The arms side by side")


# ---- the arms


def test_each_arm_s_metrics_are_means_over_seeds_with_their_spread(parsed: Parsed) -> None:
    table = parsed.text[parsed.text.index("Test examples, mean over seeds") :]
    assert "knowledge 0.7921 ±0.0006 +4.28 % 0.7611 ±0.0006 0.5279 ±0.0006 0.0079 ±0.0006" in table.replace("\u00a0", " ")
    assert "base 0.7801 ±0.0006 – 0.7491" in table


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    text = words(tmp_path, Plan(seeds=(1,)))
    assert "knowledge 0.7921 +4.28 % 0.7611 0.5279 0.0079" in text.replace("\u00a0", " ")
    assert "±0.0006" not in text


def test_differences_are_given_for_every_pair_and_slice(parsed: Parsed) -> None:
    plots = parsed.text[
        parsed.text.index("Differences in test AUC") : parsed.text.index("DIN over the base of the same evidence for comparison")
    ]
    for pair in ("knowledge − text", "knowledge − permuted", "knowledge − base"):
        assert pair in plots
    for name in ("all", "warm items", "cold items", "covered", "uncovered"):
        assert plots.count(f" {name} ") >= 3
    for difference, low, high in KINDS["helps"].values():
        assert f"+{difference:.4f} +{low:.4f} to +{high:.4f}" in plots


def test_a_seed_is_a_dot_and_an_arm_a_lane(html: str) -> None:
    lanes = re.findall(r'<svg class="lane seeds".*?</svg>', html)
    assert len(lanes) == 8
    assert all(lane.count("<circle") == 3 for lane in lanes)


# ---- coverage and cost


def test_coverage_counts_every_subject_of_a_view_once(html: str) -> None:
    users = Parsed(html[html.index("user.preference</bdi></b></span>") : html.index("item.facts</bdi></b></span>")]).text
    assert "12 of 24 with knowledge (50.0 %)" in users
    counts = {
        label: int(n)
        for label, n in re.findall(
            r"(written tonight|still fresh|last good stands in|over budget|refused|nothing to tell from) (\d+)", users
        )
    }
    assert counts == {
        "written tonight": 9,
        "still fresh": 2,
        "last good stands in": 1,
        "over budget": 7,
        "refused": 2,
        "nothing to tell from": 3,
    }


def test_every_stage_has_a_row_with_its_time(parsed: Parsed) -> None:
    costs = parsed.text[parsed.text.index("What it cost") : parsed.text.index("What was turned away")]
    for stage in flow.NAMES:
        assert f" {stage} " in costs
    assert "knowledge 2 min 28 s" in costs
    assert "report this page" in costs


def test_the_bill_says_tokens_money_and_why_it_stopped(parsed: Parsed) -> None:
    for words_ in (
        "It stopped because the token budget was spent. It used 99.6 % of 120,000 tokens.",
        "86,120",
        "33,410",
        "$0.00",
        "14 answers from the ledger",
    ):
        assert words_ in parsed.text


@pytest.mark.parametrize(
    ("stopped_by", "sentence"),
    [
        (None, "It asked everything that was planned."),
        ("none", "It asked everything that was planned."),
        ("token_budget", "It stopped because the token budget was spent."),
        ("usd_budget", "It stopped because the money budget was spent."),
        ("deadline", "It stopped because the deadline had come."),
        ("server_refused", "It stopped because of: server refused."),
    ],
)
def test_the_end_of_the_asking_is_told_in_words(tmp_path: Path, stopped_by: str | None, sentence: str) -> None:
    assert sentence in words(tmp_path, Plan(figures={"knowledge": {"stopped_by": stopped_by}}))


def test_tokens_that_were_not_recorded_are_summed_from_tonight_s_texts(tmp_path: Path) -> None:
    text = words(tmp_path, Plan(figures={"knowledge": {}}))
    asked = 9 + 7  # users and items written tonight, see the fates of fake_home
    assert f"prompt tokens {asked * 412:,}" in text


# ---- turned away


def test_rejected_rows_have_reason_count_meaning_and_examples(parsed: Parsed) -> None:
    away = parsed.text[parsed.text.index("Rejected rows") : parsed.text.index("Drawn at random")]
    assert "unknown item 41 an interaction with an item that is not in the items table" in away
    assert '"item_id": 9999' in away
    assert "in evidence 17" in away
    assert "bad time" not in away  # it rejected nothing
    assert "Nothing was rejected in histories, prompts, vectors, adaptor and features." in away


def test_refused_answers_are_shown_in_full_by_view_and_reason(parsed: Parsed) -> None:
    away = parsed.text[parsed.text.index("Refused answers") : parsed.text.index("Drawn at random")]
    assert "user.preference: repetition" in away
    assert "the answer loops" in away
    assert "The film is a film about a film" in away
    rows = re.findall(r"(?:user|item)\.\w+: [a-z ]+? (\d+), ([\d.]+) % of what came tonight", away)
    assert rows
    assert all(0 < float(share) <= 100 for _, share in rows)


# ---- to read


def test_half_of_those_to_read_have_knowledge_and_prompts_are_the_ones_sent(parsed: Parsed) -> None:
    reading = parsed.text[parsed.text.index("Drawn at random") : parsed.text.index("An example is positive")]
    users, items = reading.split(" Items ")
    assert len(re.findall(r"\bUser \d+", users)) == 10
    assert users.count("of evidence") == 5
    assert items.count("from the item’s own data") == 5
    assert users.count("No knowledge.") == 5
    assert "A person rated these films, oldest first:" in users
    assert "You know films well" in users


def test_a_subject_s_missing_text_has_its_cause(parsed: Parsed) -> None:
    reading = parsed.text[parsed.text.index("Drawn at random") :]
    assert "It lay beyond tonight’s budget." in reading


# ---- how it was measured, the release, provenance


def test_labels_splits_leaks_and_ties_are_told(parsed: Parsed) -> None:
    measured = parsed.text[parsed.text.index("An example is positive") : parsed.text.index("The release")]
    assert "rating > 3" in measured
    assert all(f" {split} " in measured for split in ("train", "valid", "test"))
    assert "No prompt has seen an event that an example asks about." in measured
    assert "17 examples were left out because their knowledge had seen" in measured
    assert "2.4 % of the examples share their second" in measured


def test_a_leak_is_not_talked_away(tmp_path: Path) -> None:
    text = words(tmp_path, Plan(figures={"examples": {"leaks": [{"view": "user.preference", "leak_count": 3, "fault_count": 3}]}}))
    assert "3 labelled events had been seen by our own prompts." in text
    assert "No prompt has seen" not in text


def test_each_arm_has_its_training_curve_with_the_kept_epochs(html: str, parsed: Parsed) -> None:
    labels = [svg["aria-label"] for svg in parsed.of("svg") if svg.get("class") == "curves"]
    assert len(labels) == 8
    assert re.match(r"base: AUC on the valid examples over \d epochs, 3 seeds, best 0\.\d{4}", labels[0])
    curve = re.findall(r'<svg class="curves".*?</svg>(?=\n<div)', html, re.DOTALL)[0]
    assert curve.count("<polyline") == curve.count("<circle") == 3


def test_the_encoder_s_cuts_are_shown_per_view(tmp_path: Path) -> None:
    def cut(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        raw = [row for row in rows if row["view"] == "item.raw"]
        return [row | {"n_tokens": 300 if i < 6 else 50, "truncated": i < 6} for i, row in enumerate(raw)]

    html = fake_home.page(tmp_path, Plan(edit={"knowledge_vector": cut}))
    assert "item.raw: tokens per text, median 50, most 300, 33.3 % cut" in html
    bars = re.search(r'<svg class="bars".*?</svg>', html)
    assert bars is not None
    drawn = re.findall(r'class="(bar(?: beyond)?)"[^>]*height="([\d.]+)%"', bars.group())
    assert [(kind, float(height)) for kind, height in drawn if float(height)] == [("bar", 100.0), ("bar beyond", 50.0)]


def test_the_release_says_what_it_is_where_it_lies_and_how_to_read_it(html: str, parsed: Parsed) -> None:
    section = parsed.text[parsed.text.index("CURRENT points at it") :]
    for part in (
        "2026-11-19T013000Z-4f2a91c0",
        "9c1e77d20b5a4e1f",
        "2026-11-19 19:00:00 UTC",
        "2026-11-20 01:30:00 UTC",
        "is_reconstructed no",
    ):
        assert part in section
    assert "fake-films/published/releases/2026-11-19T013000Z-4f2a91c0" in section
    code = re.search(r"<pre tabindex=\"0\"><code>(import kar.release.*?)</code>", html, re.DOTALL)
    assert code is not None
    compile(code.group(1), "page", "exec")


def test_a_reconstructed_release_is_said_to_be_one(tmp_path: Path) -> None:
    text = words(tmp_path, Plan(edit={"release": lambda rows: [rows[0] | {"is_reconstructed": True, "is_promoted": False}]}))
    assert "It was made after its date" in text
    assert "CURRENT points elsewhere" in text


def test_every_stage_s_recipe_and_packages_are_in_the_folded_part(tmp_path: Path) -> None:
    made, home = fake_home.build(tmp_path)
    run.run_stage("report", made, home, DATE, AS_OF)
    text = Parsed((home.partition("report", DATE).path / "index.html").read_text()).text
    provenance = text[text.index("What each stage was made from") :]
    for stage in flow.NAMES[:-1]:
        assert Manifest.read(home.partition(stage, DATE).manifest_path).recipe_sha in provenance
    assert provenance.count("torch 2.13.0") == 8


# ---- as a stage


def test_the_page_is_made_again_only_when_a_manifest_changes(tmp_path: Path) -> None:
    made, home = fake_home.build(tmp_path)
    first = run.run_stage("report", made, home, DATE, AS_OF)
    assert run.run_stage("report", made, home, DATE, AS_OF + dt.timedelta(hours=1)) == first
    path = home.partition("knowledge", DATE).manifest_path
    record = json.loads(path.read_text())
    record["figures"]["calls"] = 999
    path.write_text(json.dumps(record))
    again = run.run_stage("report", made, home, DATE, AS_OF + dt.timedelta(hours=1))
    assert again.recipe_sha != first.recipe_sha
    assert "999" in (home.partition("report", DATE).path / "index.html").read_text()


def test_the_recipe_names_each_stage_s_manifest(tmp_path: Path) -> None:
    made, home = fake_home.build(tmp_path)
    files = run.run_stage("report", made, home, DATE, AS_OF).recipe["files"]
    assert sorted(files) == sorted(f"{stage}/date={DATE}/manifest.json" for stage in flow.NAMES[:-1])


def test_two_runs_over_the_same_home_write_the_same_bytes(tmp_path: Path) -> None:
    assert fake_home.page(tmp_path / "one").replace("/one/", "/two/") == fake_home.page(tmp_path / "two")


# ---- ablations, the curve, calibration, what the ranker uses


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fake_home.page(tmp_path_factory.mktemp("ablated"), Plan(ablations=("item_only", "without:mood")))


def test_ablations_have_a_table_with_p_corrected_over_their_number(ablated: str, parsed: Parsed) -> None:
    text = Parsed(ablated).text
    table = text[text.index("Ablations: the knowledge arm with one thing changed. p is corrected by Holm over the 2 of a kind") :]
    assert "knowledge − item_only of the item’s side alone +0.0008 −0.0002 … +0.0018" in table
    assert "knowledge − without:mood without the factor mood +0.0018" in table
    assert "item_only − base" in table
    assert "Ablations" not in parsed.text


def test_every_comparison_says_what_it_could_have_found(parsed: Parsed) -> None:
    table = parsed.text[parsed.text.index("All test examples: what was found, and what could have been") :]
    assert "knowledge − text +0.0034 +0.0012 … +0.0056 0.002 0.0031 +0.0027 −0.0017" in table
    assert "a true difference of 0.0031 AUC would be found in four of five such tests" in parsed.text


def test_the_second_plot_draws_the_uplift_against_the_training_count(html: str, parsed: Parsed) -> None:
    labels = [svg["aria-label"] for svg in parsed.of("svg") if svg.get("class") == "series" and "training examples" in svg["aria-label"]]
    assert len(labels) == 2 * 3  # two backbones, three pairs
    assert labels[0].startswith(
        "knowledge less text in test AUC by training examples of the item: 0: +0.0102 (+0.0025 to +0.0179), 1-5: +0.0075"
    )
    plot = re.findall(r'<svg class="series".*?</svg>(?=\n<div class="ends)', html, re.DOTALL)[0]
    assert plot.count("<circle") == 5
    assert "0 1–5 6–20 21–100 101+" in parsed.text


def test_without_slices_by_count_there_is_no_second_plot(tmp_path: Path) -> None:
    named = {"comparison": lambda rows: [row for row in rows if ":" not in row["slice"]]}
    assert "Uplift against" not in words(tmp_path, Plan(edit=named))


def test_calibration_is_drawn_for_each_arm_around_one(parsed: Parsed) -> None:
    labels = [svg["aria-label"] for svg in parsed.of("svg") if "predicted over actual" in svg.get("aria-label", "")]
    assert [label.partition(":")[0] for label in labels[:4]] == ["base", "text", "knowledge", "permuted"]
    assert labels[2].endswith("0.98, 0.98, 0.99, 0.99, 1.00, 1.00, 1.01, 1.01, 1.02, 1.02")
    assert "knowledge ECE 0.0079" in parsed.text


def test_the_page_tells_what_a_ranker_would_lose_without_each_view_and_what_its_gates_choose(parsed: Parsed) -> None:
    table = parsed.text[parsed.text.index("What the ranker does with it") :]
    assert "user.preference 12 +0.0021 +0.0021 – 70.0 %" in table
    assert "item.facts 12 +0.0093 +0.0012 +0.0078 70.0 %" in table


def test_every_ranker_stands_in_one_table_and_the_published_one_is_unfolded(html: str, parsed: Parsed) -> None:
    table = parsed.text[
        parsed.text.index("Every ranker, test AUC") : parsed.text.index("FiBiNET over the base of the same evidence published Test AUC")
    ]
    assert "FiBiNET over the base of the same evidence published 0.7801 0.7921 +4.28 % +0.0120 +0.0101 … +0.0139" in table.replace(
        "\u00a0", " "
    )
    assert "DIN over the base of the same evidence 0.7759 0.7879" in table
    assert '<summary><span class="name">DIN over the base of the same evidence</span>' in html
    assert '<summary><span class="name">FiBiNET' not in html


@pytest.mark.parametrize(("base", "words_"), [("thin", "the thin base"), ("rich", "the rich base")])
def test_the_page_names_the_base(tmp_path: Path, base: str, words_: str) -> None:
    page = Parsed(fake_home.page(tmp_path, Plan(base=base)))
    assert f"over {words_}".lower() in page.headline.lower()
    assert f"FiBiNET over {words_}" in page.text


def test_a_thin_base_s_headline_says_that_the_uplift_is_one_from_data(tmp_path: Path) -> None:
    headline = Parsed(fake_home.page(tmp_path, Plan(base="thin"))).headline.replace("\u00a0", " ")
    assert headline.endswith(
        "that base sees 5 events of a history and the prompt saw up to 30: an uplift over it is one from data, not from knowledge."
    )


def test_a_study_says_what_each_arm_tried_and_chose_on_valid(tmp_path: Path) -> None:
    told = words(tmp_path, Plan(is_tuned=True, backbones=("fibinet",)))
    table = told[told.index("Tuning") : told.index("What the ranker does with it")]
    assert re.search(r"base 3 1 failed 0\.7100 0\.7100 nothing 3 min", table), table
    assert re.search(r"knowledge 3 1 failed 0\.7100 0\.7300 learning rate 0\.00234 3 min", table), table


def test_without_trials_no_tuning_is_shown(parsed: Parsed) -> None:
    assert "Tuning" not in parsed.text
