"""The optional judge: does an accepted answer's source explain it? Refused as `unlikely` where it hardly does.

An answer of which nothing is known (no such template any more, a failed request, the budget spent) passes.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from kar.llm.ask import Asked
from kar.llm.key import body_bytes, request_key
from kar.llm.ledger import Answer, Ledger
from kar.llm.likelihood import Scoring, scoring
from kar.llm.stream import Request
from kar.settings import Settings
from kar.stages.knowledge.choosing import Accepted
from kar.store import Inputs
from kar.text.factors import Message
from kar.text.quality import Refusal
from kar.text.quality.likelihood import bodies, likelihood, token_logprobs, unlikely
from kar.text.variants import load_splits

_VERSION = "knowledge.judge@1"
_SAME_WORDS = ("chat_template_kwargs", "chat_template")  # of the asked body: what decides how messages become tokens
_CHARS_A_TOKEN = 3  # estimate for the budget; the server counts what is spent


@dataclass(frozen=True)
class _Trio:
    """The three requests that score one answer."""

    given: Request
    alone: Request
    frame: Request


@dataclass
class Judge:
    """Scores the accepted answers of a night, a part at a time.

    Args:
        scoring: None: there is nobody to ask.
        blanks: template version → its messages with nothing of a subject in them.
        revision: of the model, in the keys.
    """

    settings: Settings
    scoring: Scoring | None
    blanks: Mapping[str, list[Message]]
    revision: str
    warnings: list[str] = field(default_factory=list)
    _frames: dict[str, list[float]] = field(default_factory=dict)
    _gains: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def unlikely(self, accepted: Mapping[int, tuple[Accepted, Answer]], views: list[str]) -> dict[int, Refusal]:
        """Which of these answers their sources hardly explain, and how little.

        Args:
            accepted: place in the part → what would be stored, and the answer that it was.
            views: of each place.
        """
        trios = {place: trio for place, pair in accepted.items() if (trio := self._trio(*pair)) is not None}
        found: dict[int, Refusal] = {}
        if self.scoring is not None and self._has_frames(trios):
            scores = self.scoring.score(request for trio in trios.values() for request in (trio.given, trio.alone))
            for place, trio in trios.items():
                if trio.given.key in scores and trio.alone.key in scores:
                    frame = len(self._frames[trio.frame.key])
                    score = likelihood(scores[trio.given.key], scores[trio.alone.key], frame)
                    if score is None:
                        continue
                    self._gains[views[place]].append(score.gain)
                    if refusal := unlikely(score, self.settings.knowledge):
                        found[place] = refusal
        for place in accepted:
            self._counts[views[place]]["accepted"] += 1
            self._counts[views[place]]["unlikely"] += place in found
        return found

    def end(self) -> Asked:
        """What it took; says what was left unscored."""
        paid = self.scoring.paid() if self.scoring is not None else Asked()
        left = sum(counts["accepted"] for counts in self._counts.values()) - sum(map(len, self._gains.values()))
        if left and self.scoring is not None and not self.scoring.asks:
            self.warnings.append(_nobody(f"llm.ask is off and the ledger lacks the scores of {left} answers"))
        if paid.stopped_by != "none":
            self.warnings.append(f"{paid.stopped_by} stopped the judge (knowledge.judge): {left} answers are accepted without its score")
        return paid

    def figures(self) -> dict[str, Any]:
        """View → accepted before the judge, scored, unlikely, and the gains: low, middle and high, nats a token."""
        found: dict[str, Any] = {}
        for view, counts in sorted(self._counts.items()):
            gains = np.array(self._gains[view])
            low, middle, high = np.quantile(gains, [0.05, 0.5, 0.95]).round(4).tolist() if len(gains) else (None, None, None)
            found[view] = {"accepted": counts["accepted"], "scored": len(gains), "unlikely": counts["unlikely"]}
            found[view] |= {"gain_p05": low, "gain_median": middle, "gain_p95": high}
        return found

    def _trio(self, kept: Accepted, answer: Answer) -> _Trio | None:
        """The requests that score what would be stored of an answer; None: its template is not there any more."""
        blank = self.blanks.get(answer.template_version)
        if blank is None:
            return None
        asked = orjson.loads(answer.body)
        same = {name: asked[name] for name in _SAME_WORDS if name in asked}
        frame = sum(len(message["content"]) for message in blank) // _CHARS_A_TOKEN
        said = max(answer.completion_tokens, len(kept.text) // _CHARS_A_TOKEN)
        made = bodies(str(asked["model"]), asked["messages"], blank, kept.text)
        sizes = (answer.prompt_tokens + said, frame + said, frame)
        return _Trio(*(self._request(body | same, size, answer.template_version) for body, size in zip(made, sizes, strict=True)))

    def _request(self, body: dict[str, Any], prompt_tokens: int, family: str) -> Request:
        raw = body_bytes(body)
        return Request(request_key(raw, self.revision), raw, prompt_tokens, 1, _VERSION, family=family)

    def _has_frames(self, trios: Mapping[int, _Trio]) -> bool:
        """Score the templates alone first: short, one a template, and a server that gives no score shows itself there."""
        new = {trio.frame.key: trio.frame for trio in trios.values() if trio.frame.key not in self._frames}
        if self.scoring is None or not new:
            return self.scoring is not None
        self._frames |= self.scoring.score(new.values())
        missing = [request for key, request in new.items() if key not in self._frames]
        if not missing:
            return True
        if self.scoring.asks and self.scoring.stopped_by == "none":
            self.warnings.append(_nobody(f"the server gives no prompt log-probabilities ({self.scoring.why_not(missing[0])})"))
            self.scoring = None
        return False


@contextlib.contextmanager
def judge_of(inputs: Inputs, settings: Settings, revision: str, asked: Asked, ledger: Ledger) -> Iterator[Judge | None]:
    """The judge for as long as the block lasts; None where knowledge.judge is off."""
    if not settings.knowledge.judge:
        yield None
        return
    templates = [template for split in load_splits(settings) for template in split.templates]
    blanks = {template.version: template.render(**dict.fromkeys(template.variables, "")) for template in templates}
    if settings.llm.provider != "openai":
        yield Judge(
            settings,
            None,
            blanks,
            revision,
            [_nobody(f"llm.provider is {settings.llm.provider!r}, which gives no prompt log-probabilities")],
        )
        return
    if not settings.llm.ask:
        yield Judge(settings, Scoring(None, ledger), blanks, revision)
        return
    with scoring(settings.llm, inputs.home, revision, inputs.as_of, ledger, token_logprobs, asked) as opened:
        yield Judge(settings, opened, blanks, revision)


def _nobody(why: str) -> str:
    return f"knowledge.judge is on, but {why}: answers are accepted without its score"
