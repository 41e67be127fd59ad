"""Why a text is not accepted, and the two ways in which a model says that it will not or cannot answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEAD_CHARS = 300  # a model declines at the start; later such words are usually somebody's lines
_MODEL = r"(?:ai|artificial intelligence|chat ?bot|(?:large )?language model|virtual assistant)"
# these words are nobody's lines in a film: they count wherever they stand
_ANYWHERE = re.compile(
    r"\bas an? (?:\w+ )?(?:ai|artificial intelligence)(?: (?:language )?(?:model|assistant)\b|,? i (?:do|don|can|cannot|am)\b)"
    r"|\bas an? (?:large )?language model\b|\bas an? chat ?bot\b"
    rf"|\bi(?:['’]m| am) (?:just |only )?(?:an?|the) (?:[\w-]+ )?{_MODEL}(?: assistant| model)?(?: and| that| which| designed| trained| so|,? but|[.,;]|$)"
    r"|\bi (?:cannot|can['’]t|am unable to|am not able to) (?:\w+ )?(?:fulfil\w*|comply with|complete|process) (?:this|that|your|the) (?:request|task|prompt)\b"
    r"|\b(?:violates?|against) (?:my|our|openai['’]?s?|the) (?:\w+ ){0,2}(?:polic(?:y|ies)|guidelines)\b"
    r"|\bi (?:do not|don['’]t) have (?:\w+ )?(?:access to|information (?:about|on)|knowledge of|enough (?:information|data|context))\b"
    r"|\b(?:my|the) knowledge cut-?off\b",
    re.IGNORECASE,
)
_DECLINES = re.compile(
    rf"\bi(?:['’]m| am) (?:(?:an?|the) (?:[\w-]+ )?{_MODEL}\b|(?:sorry|afraid|unable|not able)\b)"
    r"|^\W*(?:i )?apolog(?:i[sz]e|ies)\b|\bi apologi[sz]e\b|^\W*(?:sorry|unfortunately),? (?:but )?i\b"
    r"|\bas an? ai\b,? i\b|\bas ai (?:designed|trained|assistant)\b"
    r"|\bi (?:can(?:no|['’])t|could(?:n['’]t| not)|do(?:n['’]t| not)|won['’]t(?: be able to)?|will not(?: be able to)?|am not able to|would rather not|must decline to) "
    r"(?:\w+ ){0,2}(?:provide|help(?! but)|assist|answer|access|have (?:\w+ )?(?:access|information|data|details|records?|knowledge)|fulfil\w*|"
    r"comply|determine|analy[sz]e|describe|identify|verify|generate|discuss|find (?:\w+ )?(?:information|record|details))\b"
    r"|\bi must (?:respectfully |politely )?(?:decline|refuse)\b|\bi(?:['’]d| would) (?:rather|prefer) not (?:to )?\w+\b"
    r"|\b(?:it is|it['’]s|this is) not (?:possible|appropriate|ethical) (?:for me )?to\b|\bit would be (?:inappropriate|unethical)\b"
    r"|\bi(?:['’]m| am) not (?:familiar with|aware of|comfortable|allowed|permitted|equipped|sure (?:what|which|who))\b"
    r"|\bi (?:have no|lack|do(?:n['’]t| not) know (?:this|that|the|who|what|anything))\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"\b(?:please|could you|can you|would you|kindly) (?:\w+ ){0,2}(?:provide|share|tell|give|specify|clarify|send|upload|paste|list|let) "
    r"(?:me|us|the|more|your|a|some|which|what)\b"
    r"|\b(?:how can i|how may i|what can i|i(?:['’]d| would) be (?:happy|glad|delighted) to|i(?:['’]m| am) (?:here|happy|ready|glad|excited) to) "
    r"(?:\w+ )?(?:help|assist|do for|analy[sz]e|describe)\b"
    r"|\b(?:once|if|when|as soon as) you (?:can |could |would )?(?:provide|share|send|give|tell|paste|upload)\b"
    r"|\byou (?:have not|haven['’]t|did not|didn['’]t) (?:\w+ )?(?:provide|share|give|specif|include|attach|list|mention)\w*\b"
    r"|\b(?:no|the) (?:list|history|entry|entries|titles?|movies?|films?|books?|items?|articles?|products?|data|information|details|input) "
    r"(?:(?:was|were|has been|have been|is|are) (?:provided|given|shared|included|attached|missing|empty|blank)|seems? to be (?:missing|empty))\b"
    r"|\bi (?:do not|don['’]t) see (?:a|any|the) (?:list|history|entry|attachment|titles?|file)\b"
    r"|\bi (?:need|would need|['’]d need|require) (?:\w+ ){0,2}(?:more|some|additional|the|your) (?:\w+ )?(?:information|context|details|list|data)\b"
    r"|\b(?:what|which) (?:\w+ ){0,3}(?:would|do) you (?:want|like) (?:me )?to\b|\bwhat (?:would|do) you (?:want|like)\?|\blet me know (?:if|what|which|how|more)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a text is not accepted.

    Args:
        reason: one of the knowledge stage's reasons.
        detail: what exactly was seen, with the figure that decided.
    """

    reason: str
    detail: str


def declines(text: str) -> str:
    """The words with which the model says that it will not answer; empty if there are none."""
    found = _DECLINES.search(text[:_HEAD_CHARS]) or _ANYWHERE.search(text)
    return found.group(0) if found else ""


def asks_for_input(text: str) -> str:
    """The words with which the model asks back instead of answering; empty if there are none."""
    found = _ASKS.search(text[:_HEAD_CHARS])
    return found.group(0) if found else ""
