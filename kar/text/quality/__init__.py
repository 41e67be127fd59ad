"""The quality gate: is an answer knowledge? Pure text; asks no model and opens no socket.

gate = QualityGate(settings.knowledge, titles, min_words, load_domain_words(prompts, domain))
for each answer:  gate.judge(candidate) → Refusal | None;  accepted: gate.remember(candidate)
then:             gate.duplicates() → {(view, subject_id): Refusal};  gate.figures();  drift(tonight, last_night, …)
"""

from kar.text.quality.domain import DomainWords, load_domain_words
from kar.text.quality.figures import drift
from kar.text.quality.gate import Candidate, QualityGate, judge, judge_import
from kar.text.quality.refusal import Refusal
from kar.text.quality.words import clean, tidy, words_of

__all__ = [
    "Candidate",
    "DomainWords",
    "QualityGate",
    "Refusal",
    "clean",
    "drift",
    "judge",
    "judge_import",
    "load_domain_words",
    "tidy",
    "words_of",
]
