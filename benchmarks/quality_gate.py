"""How often the quality gate is wrong: false alarms on good texts, catch rates on planted faults, and what it costs.

    python -m benchmarks.quality_gate DATA [--out FILE.json]

DATA is a folder with MovieLens-1M (`movies.dat`) and texts about it, of which any may be missing and is then named:
    movie_facts_llm.jsonl        {"item_id", "text"}               good texts about items
    user_preferences_llm.jsonl   {"user_id", "text", "evidence"}   good texts about users
    movie_summaries_gpt35.csv    movie_id, summary                 one sentence each
    user_personas_gpt35.csv      taste, reason                     taste profiles; their titles are not looked at
Faults are planted in the good texts; what is planted lies in tests/text. Prints counts and shares, never a text.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kar.settings import KnowledgeSettings
from kar.text.quality import Candidate, QualityGate, load_domain_words, words_of
from kar.text.quality.alike import Sketches
from kar.text.quality.titles import forms
from kar.text.templates import load_template

ROOT = Path(__file__).parents[1]
SETTINGS = KnowledgeSettings()
SEED = 11
SKETCHED = 200_000


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Args:
        group, name: what was measured.
        count: texts, or how many times.
        figure: a share of `count`, unless the unit says otherwise.
        detail: which reasons, how often.
    """

    group: str
    name: str
    count: int
    figure: float
    unit: str = "share"
    detail: str = ""


# ---- texts


def titles_of(data: Path) -> dict[str, tuple[str, str]]:
    """item id → (title, genres)."""
    rows = (line.split("::") for line in (data / "movies.dat").read_text(encoding="latin-1").splitlines())
    return {row[0]: (row[1], row[2].replace("|", ", ")) for row in rows}


class Texts:
    """The good texts as candidates, with the prompts that the domain's real templates give."""

    def __init__(self, data: Path) -> None:
        self._data, self.items = data, titles_of(data)
        self._item, self._user = (load_template(ROOT / "prompts", "movies", view) for view in ("item.facts", "user.preference"))

    def item_prompt(self, item_id: str) -> str:
        title, genres = self.items[item_id]
        return "\n".join(m["content"] for m in self._item.render(title=title, text=f"{title}. Genres: {genres}."))

    def user_prompt(self, titles: Iterable[str]) -> str:
        return "\n".join(m["content"] for m in self._user.render(history="\n".join(f"- {title}" for title in titles)))

    def facts(self) -> Iterator[Candidate]:
        for line in (self._data / "movie_facts_llm.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            yield self._about_item(str(row["item_id"]), row["text"])

    def summaries(self) -> Iterator[Candidate]:
        with (self._data / "movie_summaries_gpt35.csv").open(encoding="utf-8", errors="replace", newline="") as stream:
            for row in csv.DictReader(stream):
                if row["movie_id"] in self.items:
                    yield self._about_item(row["movie_id"], row["summary"])

    def preferences(self) -> Iterator[Candidate]:
        for line in (self._data / "user_preferences_llm.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            titles = tuple(self.items[str(item)][0] for item in row["evidence"])
            yield Candidate("user.preference", str(row["user_id"]), row["text"], prompt=self.user_prompt(titles), titles=titles)

    def personas(self) -> Iterator[Candidate]:
        with (self._data / "user_personas_gpt35.csv").open(encoding="utf-8", newline="") as stream:
            for place, row in enumerate(csv.DictReader(stream)):
                said = zip(row["taste"].split("|"), row["reason"].split("|"), strict=False)
                yield Candidate("user.persona", str(place), " ".join(f"{taste.strip()} {why.strip()}" for taste, why in said))

    def _about_item(self, item_id: str, text: str) -> Candidate:
        return Candidate("item.facts", item_id, text, prompt=self.item_prompt(item_id), titles=(self.items[item_id][0],))


# ---- measuring


class Bench:
    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._domain = load_domain_words(ROOT / "prompts", "movies")
        self.gate = self.fresh()

    def fresh(self) -> QualityGate:
        return QualityGate(SETTINGS, [title for title, _ in self._texts.items.values()], {}, self._domain)

    def false_alarms(self, name: str, candidates: list[Candidate]) -> Iterator[Line]:
        gate, reasons, seconds = self.fresh(), Counter[str](), 0.0
        for candidate in candidates:
            began = time.process_time()
            refusal = gate.judge(candidate)
            if refusal is None:
                gate.remember(candidate)
            else:
                reasons[refusal.reason] += 1
            seconds += time.process_time() - began
        reasons["near_duplicate"] += len(gate.duplicates())
        detail = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common() if count) or "none"
        words = sum(len(words_of(c.text)) for c in candidates) / len(candidates)
        yield Line("false alarms", name, len(candidates), reasons.total() / len(candidates), detail=detail)
        yield Line(
            "cost", f"CPU of judge + remember, {name}, {words:.0f} words", len(candidates), 1e6 * seconds / len(candidates), "us a text"
        )

    def caught(self, name: str, planted: Iterable[Candidate], *expected: str) -> Line:
        found = Counter(refusal.reason if (refusal := self.gate.judge(candidate)) else "passed" for candidate in planted)
        detail = ", ".join(f"{reason} {count}" for reason, count in found.most_common())
        return Line("caught", name, found.total(), sum(found[reason] for reason in expected) / found.total(), detail=detail)


def mechanical(bench: Bench, good: list[Candidate], planted: dict[str, list[str]]) -> Iterator[Line]:
    """Faults that show in the answer itself."""

    def each(change: Callable[[Candidate], Candidate]) -> Iterator[Candidate]:
        return (change(candidate) for candidate in good)

    def said(name: str, *, is_inside: bool = False) -> Iterator[Candidate]:
        for place, phrase in enumerate(planted[name] * 10):
            candidate = good[place % len(good)]
            half = candidate.text.find(". ", len(candidate.text) // 3) + 2 if is_inside else 0
            yield replace(candidate, text=f"{candidate.text[:half]}{phrase} {candidate.text[half:]}")

    def loop(candidate: Candidate) -> Candidate:
        words = candidate.text.split()
        return replace(
            candidate, text=" ".join(words[: len(words) // 2] + words[len(words) // 2 - 6 : len(words) // 2] * 9), finish_reason="length"
        )

    def sentences(candidate: Candidate) -> Candidate:
        return replace(candidate, text=" ".join([candidate.text.split(". ")[0] + "."] * 5))

    def cut(candidate: Candidate) -> Candidate:
        return replace(candidate, text=candidate.text[: 2 * len(candidate.text) // 3], finish_reason="length")

    def echo(candidate: Candidate) -> Candidate:
        return replace(candidate, text=candidate.prompt)

    def echo_tail(candidate: Candidate) -> Candidate:
        return replace(candidate, text=candidate.prompt[-400:] + " That is all there is to say about it, and no more of it.")

    yield bench.caught("empty answer", each(lambda c: replace(c, text=" \n")), "empty")
    yield bench.caught("tokens spent on reasoning", each(lambda c: replace(c, text="", finish_reason="length")), "truncated_by_reasoning")
    yield bench.caught("empty list", each(lambda c: replace(c, text='{"genre": "", "mood": null, "plot": []}')), "empty_list")
    yield bench.caught("five words", each(lambda c: replace(c, text=" ".join(c.text.split()[:5]) + ".")), "too_short")
    yield bench.caught("cut at two thirds", each(cut), "truncated")
    yield bench.caught("loop of six words to the limit", each(loop), "repetition")
    yield bench.caught("one sentence five times", each(sentences), "repetition")
    yield bench.caught("the whole rendered prompt", each(echo), "echo")
    yield bench.caught("the prompt's end and a sentence", each(echo_tail), "echo")
    yield bench.caught("declines first, then answers", said("refusals"), "refusal")
    yield bench.caught("declines in the middle", said("refusals_inside", is_inside=True), "refusal")
    yield bench.caught("asks back", said("asks"), "asks_for_input")


def about_something_else(
    bench: Bench, texts: Texts, items: list[Candidate], users: list[Candidate], planted: dict[str, list[str]]
) -> Iterator[Line]:
    """Faults that need the domain, the catalogue or the reader's sense."""
    foreign = tomllib.loads((ROOT / "tests/text/foreign.toml").read_text(encoding="utf-8"))["text"]
    for origin, name in (
        ("written", "written by hand"),
        ("model", "by a small model"),
        ("held out", "by a small model, unseen when words were chosen"),
    ):
        chosen = [text["text"] for text in foreign if text["origin"] == origin]
        yield bench.caught(f"swapped domain, {name}", (replace(items[n], text=text) for n, text in enumerate(chosen)), "off_domain")
    codes = [replace(users[n], text=case["text"]) for n, case in enumerate(planted["languages"])]  # type: ignore[index]
    yield bench.caught("another language", codes, "wrong_language")
    swapped_users = [replace(c, text=users[(n + 1777) % len(users)].text) for n, c in enumerate(users)]
    yield bench.caught("another user's profile", swapped_users, "entity_mismatch")
    swapped = [(c, items[(n + 777) % len(items)]) for n, c in enumerate(items)]
    opened = [replace(c, text=f"{forms(o.titles[0])[0]} is a film of its own kind. {o.text}") for c, o in swapped]
    yield bench.caught("another item's text that opens with its title", opened, "entity_mismatch")
    yield bench.caught("another item's text that names no title", [replace(c, text=o.text) for c, o in swapped], "entity_mismatch")
    guessed = [replace(users[n], text=f"{users[n].text} {said}") for n, said in enumerate(planted["guesses"] * 10)]
    yield bench.caught("age, gender, health … guessed", guessed, "sensitive_inference")
    harmless = [replace(users[n], text=f"{users[n].text} {said}") for n, said in enumerate(planted["harmless"] * 10)]
    line = bench.caught("the same words about films (should pass)", harmless, "sensitive_inference")
    yield replace(line, group="false alarms")
    yield from generic(bench, users, planted)


def generic(bench: Bench, users: list[Candidate], planted: dict[str, list[str]]) -> Iterator[Line]:
    """One profile with changing words, given to 2 % of the users."""
    rng, gate = random.Random(SEED), bench.fresh()
    chosen = set(rng.sample(range(len(users)), len(users) // 50))
    for place, candidate in enumerate(users):
        if place in chosen:
            filled = rng.choice(planted["generic"]).format(*(rng.choice(words) for words in planted["generic_words"]))
            candidate = replace(candidate, text=filled)
        gate.remember(candidate)
    found = {subject for _, subject in gate.duplicates()}
    hit = sum(users[place].subject_id in found for place in chosen)
    yield Line("caught", "one generic profile for 2 % of the users", len(chosen), hit / len(chosen), detail=f"near_duplicate {hit}")
    others = len(users) - len(chosen)
    yield Line("false alarms", "near-duplicates among the other users", others, (len(found) - hit) / others)


def costs() -> Iterator[Line]:
    """Memory and time of the sketches of many texts; every fiftieth text is one of ten profiles."""
    rng, sketches = random.Random(SEED), Sketches()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    for place in range(SKETCHED):
        seed = place % 10 if place % 50 == 0 else place + 100
        words = random.Random(seed)
        sketches.add(str(rng.randrange(10**8)), [f"w{words.randrange(20_000)}" for _ in range(60)])
    making_s = time.process_time() - began
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
    began = time.process_time()
    alike = sketches.alike(SETTINGS.near_duplicate_share)
    yield Line("cost", "memory of sketches and ids, a million texts", SKETCHED, grown_kib / 1024 * 1e6 / SKETCHED, "MiB")
    yield Line("cost", "making sketches (words made up on the way)", SKETCHED, 1e6 * making_s / SKETCHED, "us a text")
    yield Line("cost", "finding near-duplicates", SKETCHED, time.process_time() - began, "s")
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield Line(
        "cost", "memory at the peak of finding them, a million texts", SKETCHED, (peak_kib - before_kib) / 1024 * 1e6 / SKETCHED, "MiB"
    )
    is_planted = sum(place % 50 == 0 for place in range(SKETCHED))
    yield Line("caught", "ten profiles among many texts", is_planted, float((alike > SETTINGS.max_near_duplicates).sum()) / is_planted)


def measured(data: Path) -> Iterator[Line]:
    """Every line, in the order of the table."""
    texts = Texts(data)
    bench = Bench(texts)
    planted = tomllib.loads((ROOT / "tests/text/planted.toml").read_text(encoding="utf-8"))
    good: dict[str, list[Candidate]] = {}
    files = {
        "movie_facts_llm.jsonl": texts.facts,
        "user_preferences_llm.jsonl": texts.preferences,
        "movie_summaries_gpt35.csv": texts.summaries,
        "user_personas_gpt35.csv": texts.personas,
    }
    for name, read in files.items():
        if not (data / name).is_file():
            print(f"missing, skipped: {name}", file=sys.stderr)
            continue
        good[name] = list(read())
        yield from bench.false_alarms(name, good[name])
    items, users = good.get("movie_facts_llm.jsonl", []), good.get("user_preferences_llm.jsonl", [])
    if items:
        yield from mechanical(bench, items, planted)
    if items and users:
        yield from about_something_else(bench, texts, items, users, planted)
    yield from costs()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with movies.dat and texts")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON: name, system, figure, unit, ratio")
    arguments = parser.parse_args()
    if not (arguments.data / "movies.dat").is_file():
        parser.error(f"{arguments.data} holds no movies.dat")
    rows = []
    for line in measured(arguments.data):
        figure = f"{line.figure:8.2%}" if line.unit == "share" else f"{line.figure:8,.1f} {line.unit}"
        print(f"{line.group:13} {line.name:66} {line.count:7,} {figure:20} {line.detail}", flush=True)
        rows.append({"name": f"{line.group}: {line.name}", "system": "kar", "figure": line.figure, "unit": line.unit, "ratio": None})
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
