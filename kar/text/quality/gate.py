"""The quality gate: one answer at a time, then all against all.

Order matters. An answer that loops until the token limit is called `repetition`, not `truncated`, because asking it
again with more tokens would pay for a longer loop. What can be seen from the answer alone comes before what needs the
prompt, and that before what needs the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kar.settings import KnowledgeSettings
from kar.text.quality import sensitive
from kar.text.quality.alike import Sketches
from kar.text.quality.domain import DomainWords
from kar.text.quality.figures import Figures
from kar.text.quality.language import Languages
from kar.text.quality.refusal import Refusal, asks_for_input, declines
from kar.text.quality.shape import ECHO_WORDS, echo_share, list_fault, loop
from kar.text.quality.titles import Catalogue, is_met, stem, stems
from kar.text.quality.words import lower_words_of, words_of

JUDGED_CHARS = 12_000  # of a longer answer the beginning is judged: 100 kB must not cost a second
_PROMPT_CHARS = 60_000
_ECHO_SHARE = 0.4
_OPENING_CHARS = 40
# "X is a …", "X (1995) follows …" is a text about X; "X's makers", "X veteran" is none
_TELLS = re.compile(
    r"[\"”’*_]?,? ?(?:\([^()]{1,40}\),? )?(?:is|was|tells|follows|centers|centres|revolves|stars|features|depicts|explores)\b"
)
_UNMET_LEAST = 2
_UNMET_SHARE = 0.5
Key = tuple[str, str]  # view, subject_id


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer that may become knowledge.

    Args:
        view, subject_id: whom it is about.
        text: as the model gave it.
        finish_reason: stop, length, content_filter …
        prompt: what the model was shown; may be empty.
        titles: user view: titles of the history that the prompt showed; item view: its own title.
        given: attributes of the person that the prompt showed; what stands there is not guessed.
        form: what was asked for. A list may be bullets or JSON.
    """

    view: str
    subject_id: str
    text: str
    finish_reason: str = "stop"
    prompt: str = ""
    titles: tuple[str, ...] = ()
    given: str = ""
    form: Literal["prose", "list"] = "prose"


def judge(
    text: str, finish_reason: str, prompt_text: str, settings: KnowledgeSettings, form: Literal["prose", "list"] = "prose"
) -> Refusal | None:
    """Judge one answer by itself and its prompt; `QualityGate.judge` looks at more.

    Args:
        text: as the model gave it.
        finish_reason: stop, length, content_filter …
        prompt_text: what it was asked, for the echo; may be empty.
        settings: min_words and max_repetition_share.
        form: what was asked for.

    Returns:
        None if the text may become knowledge.
    """
    text = _judged(text)
    words = words_of(text)
    fault = list_fault(text, is_asked_for=form == "list" and bool(words) and finish_reason != "length")
    if fault and fault[0] == "empty_list":
        return Refusal(*fault)
    if not words:
        if finish_reason == "length":
            return Refusal("truncated_by_reasoning", "no text, and the token limit was reached")
        return Refusal("empty", f"no words in {len(text)} characters")
    if finish_reason == "content_filter":
        return Refusal("refusal", "the server's content filter stopped it")
    if said := declines(text):
        return Refusal("refusal", f"says {said!r}")
    if said := asks_for_input(text):
        return Refusal("asks_for_input", f"says {said!r}")
    lower = [w.lower() for w in words]
    if (share := echo_share(lower, [w.lower() for w in words_of(prompt_text[:_PROMPT_CHARS])])) > _ECHO_SHARE:
        return Refusal("echo", f"{share:.0%} of its words stand in the prompt in runs of {ECHO_WORDS} or more")
    if repeats := loop(lower, settings.max_repetition_share):
        return Refusal("repetition", repeats)
    if finish_reason == "length":
        return Refusal("truncated", f"cut at the token limit after {len(words)} words")
    if fault:
        return Refusal(*fault)
    if len(words) < settings.min_words:
        return Refusal("too_short", f"{len(words)} words, at least {settings.min_words} are asked for")
    return None


def judge_import(text: str, settings: KnowledgeSettings) -> Refusal | None:
    """Judge a text that somebody else accepted before: only whether there is enough of it."""
    count = len(words_of(text))
    if count == 0:
        return Refusal("empty", f"no words in {len(text)} characters")
    if count < settings.min_words:
        return Refusal("too_short", f"{count} words, at least {settings.min_words} are asked for")
    return None


class QualityGate:
    """Judges a night's answers. `judge` each, `remember` the accepted, then ask for `duplicates` and `figures`.

    Args:
        settings: which reasons are looked for, and how strictly.
        catalogue: the titles of all items; empty: no title is looked for.
        min_words: view → fewest words, where a template asks for more than the settings.
        domain: words of the domain and of others (`load_domain_words`); None: not looked at.

    Raises:
        SettingsError: knowledge.languages names a language that nobody knows.
    """

    def __init__(
        self,
        settings: KnowledgeSettings,
        catalogue: Iterable[str] = (),
        min_words: Mapping[str, int] | None = None,
        domain: DomainWords | None = None,
    ) -> None:
        self._settings = settings
        self._rules = {
            view: settings.model_copy(update={"min_words": max(least, settings.min_words)}) for view, least in (min_words or {}).items()
        }
        self._languages = Languages(settings.languages)
        self._domain = domain if settings.off_domain else None
        self._catalogue = Catalogue(catalogue) if settings.entity else None
        self._sketches: dict[str, Sketches] = {}
        self._known: dict[str, set[int]] = {}  # places of sketches that are not tonight's
        self._figures = Figures()
        self._alike: dict[str, np.ndarray] = {}

    def judge(self, candidate: Candidate) -> Refusal | None:
        """Why the answer is not accepted, None: it may become knowledge. Counts it for the figures: call it once a subject."""
        refusal = self.look(candidate)
        self.count(candidate.view, refusal)
        return refusal

    def count(self, view: str, refusal: Refusal | None) -> None:
        """Count one subject's verdict that several looks led to."""
        self._figures.judged(view, refusal.reason if refusal else None)

    def look(self, candidate: Candidate) -> Refusal | None:
        """As `judge`, without counting: for a subject's other answers, and the whole sentences of a cut one."""
        rules = self._rules.get(candidate.view, self._settings)
        refusal = judge(candidate.text, candidate.finish_reason, candidate.prompt, rules, candidate.form)
        if refusal is not None and refusal.reason != "truncated":
            return refusal
        # a cut answer is asked again with more tokens, which a text about something else is not worth
        return self._about_something_else(candidate, _judged(candidate.text)) or refusal

    def _about_something_else(self, candidate: Candidate, text: str) -> Refusal | None:
        words = lower_words_of(text)
        if fault := self._languages.fault(text, len(words)):
            return Refusal("wrong_language", fault)
        if self._domain is not None and (fault := self._domain.fault(words)):
            return Refusal("off_domain", fault)
        if fault := self._mismatch(candidate, text):
            return Refusal("entity_mismatch", fault)
        if self._settings.sensitive and candidate.view.startswith("user.") and (fault := sensitive.guess(text, candidate.given)):
            return Refusal("sensitive_inference", f"guesses {fault}")
        return None

    def _mismatch(self, candidate: Candidate, text: str) -> str:
        """Titles that do not belong there: not the user's, or another item's; empty: no fault."""
        if self._catalogue is None or not candidate.titles:
            return ""
        named = self._catalogue.named(text)
        if not named:
            return ""
        met, prompt = stems(candidate.titles), candidate.prompt[:_PROMPT_CHARS].lower()
        strange = {stem(form): form for form, _ in named if not is_met(form, met, prompt)}
        if not strange:
            return ""
        shown = ", ".join(repr(form) for form in list(strange.values())[:4])
        if candidate.view.startswith("user."):
            all_named = {stem(form) for form, _ in named}
            is_fault = len(strange) >= _UNMET_LEAST and len(strange) > _UNMET_SHARE * len(all_named)
            return f"names {len(strange)} of {len(all_named)} titles that the user never met: {shown}" if is_fault else ""
        return _other_item(text, named, met, prompt, shown)

    def refuse(self, candidate: Candidate, reason: str) -> None:
        """Count an answer that `judge` let pass as refused after all, by somebody who looked further."""
        self._figures.refused(candidate.view, reason)

    def remember(self, candidate: Candidate, *, is_new: bool = True) -> None:
        """Keep an accepted text's sketch, for `duplicates`, and count it for the figures.

        Args:
            is_new: False for a text of an earlier night that is only there for comparison: it is company for tonight's,
                is never refused itself and stands in no figure.
        """
        words = lower_words_of(_judged(candidate.text))
        sketches = self._sketches.setdefault(candidate.view, Sketches())
        if is_new:
            self._figures.accepted(candidate.view, words)
        else:
            self._known.setdefault(candidate.view, set()).add(len(sketches))
        sketches.add(candidate.subject_id, words)
        self._alike.pop(candidate.view, None)

    def duplicates(self) -> dict[Key, Refusal]:
        """The remembered texts that are alike more than `max_near_duplicates` others of their view.

        All of them, none kept as the first: a text that fits many subjects says nothing about any of them, and which
        one came first is chance. Neither do the figures of acceptance change: they are as `judge` left them.
        """
        found: dict[Key, Refusal] = {}
        most = self._settings.max_near_duplicates
        for view, sketches in sorted(self._sketches.items()):
            alike, known = self._alike_of(view), self._known.get(view, set())
            for place in np.flatnonzero(alike > most).tolist():
                if place not in known:
                    detail = f"alike {alike[place]} other texts of {view} ({self._settings.near_duplicate_share:.0%} of the words or more)"
                    found[view, sketches.subject_id(place)] = Refusal("near_duplicate", detail)
        return found

    def figures(self) -> dict[str, Any]:
        """View → what `Figures.of` says, and near_duplicate_share: of the remembered texts, those in `duplicates`."""
        most, found = self._settings.max_near_duplicates, {}
        for view in self._figures.views():
            count = len(self._sketches.get(view, ()))
            share = float((self._alike_of(view) > most).mean()) if count else 0.0
            found[view] = self._figures.of(view) | {"near_duplicate_share": round(share, 4)}
        return found

    def _alike_of(self, view: str) -> np.ndarray:
        if view not in self._alike:
            self._alike[view] = self._sketches[view].alike(self._settings.near_duplicate_share)
        return self._alike[view]


def _judged(text: str) -> str:
    """What of a text is looked at; lone surrogates, which no file takes either, become question marks."""
    return text[:JUDGED_CHARS].encode("utf-8", "replace").decode()


def _other_item(text: str, named: list[tuple[str, int]], own: list[str], prompt: str, shown: str) -> str:
    """Whether a text is about another title: it opens by telling of one or names it twice, and never its own."""
    lower = " ".join(words_of(text.lower()))
    if any(f" {name} " in f" {lower} " for name in own if name):
        return ""
    strange = [(form, place) for form, place in named if not is_met(form, own, prompt)]
    form, place = strange[0]
    opens = place <= _OPENING_CHARS and _TELLS.match(text, place + len(form)) is not None
    counts = [sum(form == other for other, _ in strange) for form, _ in strange]
    return f"never names its own title, but {shown}" if opens or max(counts) > 1 else ""
