"""Why a text is not accepted, and the two ways in which a model says that it will not or cannot answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEAD_CHARS = 300  # a model declines at the start; later such words are usually somebody's lines
_MODEL = r"(?:ai|artificial intelligence|chat ?bot|(?:large )?language model|virtual assistant)"
# these words are nobody's lines in a film: they count wherever they stand
_ANYWHERE = re.compile(
    r"\bas an? (?:\w+ )?(?:ai|artificial intelligence)(?: (?:language )?(?:model|assistant)\b|,? i (?:do|don|can|cannot|am)\b)"
    r"|\bas an? (?:large )?language model\b|\bas an? chat ?bot\b|\bas an? (?:virtual |digital )?assistant,? i\b"
    rf"|\bi(?:['’]m| am) (?:just |only )?(?:an?|the) (?:[\w-]+ )?{_MODEL}(?: assistant| model)?(?: and| that| which| designed| trained| so|,? but|[.,;]|$)"
    r"|\bi (?:cannot|can['’]t|am unable to|am not able to) (?:\w+ )?(?:fulfil\w*|comply with|complete|process) (?:this|that|your|the) (?:request|task|prompt)\b"
    r"|\b(?:violates?|against) (?:my|our|openai['’]?s?|the) (?:\w+ ){0,2}(?:polic(?:y|ies)|guidelines)\b"
    r"|\bi (?:do not|don['’]t) have (?:\w+ )?(?:access to|information (?:about|on)|knowledge of|enough (?:information|data|context))\b"
    r"|\b(?:my|the) knowledge cut-?off\b",
    re.IGNORECASE,
)
# one of these stands in whatever _ANYWHERE finds; most texts hold none
_SIGNS = (
    *(" ai", "artificial", "language model", "chat", "assistant", "request", " task", " prompt"),
    *("polic", "guideline", "access to", "information", "knowledge", "enough "),
)
# who says "I can't" at the start of an answer declines, unless it is a matter of taste ("I can't resist a good western") or somebody's line
_TASTE = (
    r"(?:\w+ly )?(?:help but|resist|stand|wait|get enough|imagine|stop|deny|say no|go wrong|bear|tolerate|abide|live without|recommend)"
)
_DECLINES = re.compile(
    rf"(?<![\"“‘'«])\b(?:i(?:['’]m| am) (?:(?:an?|the) (?:[\w-]+ )?{_MODEL}\b|(?:sorry|afraid|unable|not able)\b)"
    rf"|i (?:cannot|can not|can['’]t|could not|couldn['’]t|won['’]t be able to|will not be able to|am not able to)\b(?! {_TASTE}\b)"
    r"|i (?:do(?:n['’]t| not)|won['’]t|will not|would rather not|must decline to) (?:\w+ ){0,2}"
    r"(?:provide|help|assist|answer|access|have (?:\w+ )?(?:access|information|data|details|records?|knowledge|opinions?)|fulfil\w*|"
    r"comply|determine|analy[sz]e|describe|identify|verify|generate|discuss|find (?:\w+ )?(?:information|record|details)|feel comfortable|"
    r"form (?:\w+ )?opinions?|hold (?:\w+ )?opinions?|think i can)\b"
    r"|i (?:have to|must)(?: respectfully| politely)? (?:decline|refuse|pass)\b|i(?:['’]d| would) (?:rather|prefer) not\b|i(?: must)? decline\b"
    r"|i was (?:unable|not able) to\b|i have never (?:heard of|come across|encountered)\b|i can only (?:describe|answer|help|say|speak)\b"
    r"|i(?:['’]m| am) having (?:trouble|difficulty)\b|i (?:won['’]t|will not|should not|shouldn['’]t|would not) (?:speculate|guess|judge|make assumptions)\b"
    r"|(?:would|may|might) not be (?:appropriate|ethical|right) (?:to|for)\b|would not be appropriate[.,;]|(?:is not|isn['’]t) clear to me\b"
    r"|i regret\b|i apologi[sz]e\b|as ai (?:designed|trained|assistant)\b"
    r"|(?:it is|it['’]s|this is) not (?:possible|appropriate|ethical) (?:for me )?to\b|it would be (?:inappropriate|unethical)\b"
    r"|(?:this|that|it) is (?:beyond|outside) (?:what i\b|my\b|the scope)"
    r"|i(?:['’]m| am) not (?:familiar with|aware of|comfortable|allowed|permitted|equipped|sure (?:what|which|who))\b"
    r"|i (?:have no|lack|do(?:n['’]t| not) know (?:this|that|the|who|what|anything|enough|any))\b"
    r"|(?:no|not enough|insufficient|(?:is|are)n['’]t enough|is not enough) (?:\w+ )?(?:information|data|context|details) (?:is |was |are )?"
    r"(?:available|provided|given|for me|to (?:answer|say|determine|describe|draw)|about this|on this))\b"
    r"|^\W*(?:(?:my )?apologies\b|sorry,? (?:but|that|this|i|there|no|it|we|about|for)\b|(?:unfortunately|regrettably),? (?:but )?(?:i|there is no|no)\b)",
    re.IGNORECASE,
)
_SUBJECTS = r"(?:list|history|entry|entries|titles?|movies?|films?|books?|items?|articles?|products?|ratings?|data|details|information|input|text|name)"
_ASKS = re.compile(
    r"\b(?:please|could you|can you|would you|kindly) (?:\w+ ){0,2}(?:provide|share|tell|give|specify|clarify|send|upload|paste|list|let) "
    r"(?:me|us|the|more|your|a|some|which|what)\b"
    rf"|(?:^\W*|[.!?:] |\bjust |\bplease |\bkindly )(?:provide|share|send|upload|paste|give|tell|add) (?:me )?(?:the|your|some|a|their) (?:\w+ ){{0,2}}{_SUBJECTS}\b"
    r"|\b(?:how can i|how may i|what can i|i(?:['’]d| would) (?:be (?:happy|glad|delighted)|love) to|i(?:['’]m| am) (?:here|happy|ready|glad|excited) to) "
    r"(?:\w+ )?(?:help|assist|do for|analy[sz]e|describe)\b|^\W*(?:sure,? |of course,? )?(?:i(?:['’]m| am) )?(?:happy|glad) to (?:help|assist)\b"
    r"|\b(?:once|if|when|as soon as) you (?:can |could |would )?(?:provide|share|send|give|tell|paste|upload)\b"
    r"|\byou (?:have not|haven['’]t|did not|didn['’]t) (?:\w+ )?(?:provide|share|give|specif|include|attach|list|mention)\w*\b"
    r"|\byou forgot to\b|\bi(?:['’]m| am) waiting for (?:the|your)\b|\bwould you like me to\b|\bwhat is the (?:name|title)\b[^.!?]{0,40}\?"
    rf"|\b(?:no|the) {_SUBJECTS} (?:(?:was|were|has been|have been|is|are) (?:provided|given|shared|included|attached|missing|empty|blank)|"
    r"(?:seems?|appears?) to be (?:missing|empty)|in (?:the|your) (?:prompt|message|request|input))\b"
    r"|\b(?:your|the) (?:prompt|message|request|input|question) (?:does not|doesn['’]t|did not|didn['’]t|contains no|has no|is (?:empty|missing|incomplete)|lacks|seems)\b"
    r"|\bi (?:do not|don['’]t|cannot|can['’]t) see (?:a|any|the) (?:list|history|entry|attachment|titles?|file)\b"
    r"|\b(?:i|i['’]d|i would|to answer,? i would) (?:need|require) (?:\w+ ){0,2}(?:more|some|additional|the|your|a) (?:\w+ )?"
    r"(?:information|context|details|list|data|titles?|history)\b"
    r"|\b(?:what|which) (?:\w+ ){0,3}(?:would|do|should) (?:you|i) (?:want|like|mean|prefer|look|start|describe|begin)\b|\bwhat (?:would|do) you (?:want|like)\?"
    rf"|\b(?:may|should|shall|can) i [^.!?]{{0,80}}\?|\b(?:what|which) (?:is|are) the {_SUBJECTS}\?|\bdo you (?:mean|want|have) [^.!?]{{0,80}}\?"
    r"|\blet me know (?:if|what|which|how|more)\b",
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
    lower = text.lower()
    found = _DECLINES.search(text[:_HEAD_CHARS])
    if found is None and any(sign in lower for sign in _SIGNS):
        found = _ANYWHERE.search(text)
    return found.group(0) if found else ""


def asks_for_input(text: str) -> str:
    """The words with which the model asks back instead of answering; empty if there are none."""
    found = _ASKS.search(text[:_HEAD_CHARS])
    return found.group(0) if found else ""
