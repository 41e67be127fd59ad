"""What a text guesses about a person that nobody asked it to: age, gender, health, religion, origin, politics, sexuality.

A guess has three parts: somebody it is about ("this viewer is", "probably", "suggests"), at most a few words between,
and the class of people. Words that open a content ("films about", "stories of", "drawn to") may not stand between:
"likely a young woman in her twenties" is a guess, "is drawn to stories of young women" is none.
"""

from __future__ import annotations

import re

_SUBJECT = (
    r"(?:(?:this|the|our) (?:\w+ )?(?:user|person|viewer|reader|customer|individual|shopper|buyer|subscriber|audience member|watcher|rater|fan)"
    r"|they|he|she|who|user|viewer)"
)
_SAYS = r"(?:is|are|was|['’]s|['’]re|seems?|appears?|looks?|sounds?|may|might|could|must|has|have|identif(?:y|ies) as|describes? (?:him|her|them)sel\w+ as)"
_HINTS = (
    r"(?:likely|probably|perhaps|possibly|presumably|suggest(?:s|ing)?|indicat(?:es?|ing)|impl(?:y|ies|ying)|points? to|pointing to|hints? at|"
    r"reveals?|typical of|profile of|consistent with|characteristic of|guess(?:es|ing)?|assume|speaks? of|taste of|portrait of|belongs? to|"
    r"appears? to be|seems? to be|may be|might be|could be|must be)"
)
_BARRED = (
    r"about|of|with|featuring|to|on|by|like|likes|liked|love|loves|loved|enjoy|enjoys|enjoyed|prefer|prefers|for|over|against|into|starring|where|"
    r"when|because|since|if|that|which|whose|who|than|through|stories|films|movies|books|tales|leads|rather|not|n['’]t|never"
)
_GAP = rf"(?:(?!(?:{_BARRED})\b)[\w'’-]+[,:]? ){{0,6}}"
_CUE = rf"(?:\b{_SUBJECT} (?:\w+ly )?{_SAYS}|\b{_HINTS}|(?:^|[.!?:] )(?=(?:an?|likely|probably|female|male)\b))[,:]? ?{_GAP}"
_OF_A_PERSON = (
    r"(?=[.,;:!?)]|$| (?:person|viewer|user|reader|individual|customer|shopper|man|woman|adult|teen\w*|background|believer|household|upbringing|"
    r"who|and|or|with|in|based|given|living|aged|between|from|by (?:birth|faith))\b)"
)
_AGE = (
    r"(?:(?:young|younger|older?|elderly|middle[- ]aged|adult|teenaged?|mature|college[- ]aged?|retired) "
    r"(?:(?:\w+ )?(?:person|viewer|user|reader|individual|adult|customer))"
    r"|(?:an? (?:\w+ )?)?(?:teenager|teen|adolescent|retiree|pensioner|senior citizen|millennial|baby boomer|boomer|gen[- ]?(?:x|z)(?:er)?|preteen|"
    rf"middle[- ]aged|elderly){_OF_A_PERSON}"
    r"|\d{1,2}(?:[- ]years?[- ]old| years of age)|aged? (?:around |about |between |range )?\d{1,2}|(?:between )?\d{2} (?:and|to|or) \d{2} years"
    r"|(?:in )?(?:his|her|their) (?:(?:early|mid|late)[- ](?:(?:to|or)[- ](?:mid|late)[- ])?)?"
    r"(?:teens|twenties|thirties|forties|fifties|sixties|seventies|eighties|[1-8]0['’]?s)\b"
    r"|(?:born|grew up|raised|came of age) in the (?:early |mid |late )?(?:\d{4}s|\d0s|fifties|sixties|seventies|eighties|nineties))"
)
_GENDER = (
    r"(?:an? )?(?:(?:young|younger|old|older|elderly|middle[- ]aged|adult|mature|professional|single|married|college[- ]aged|teenage|straight) )*"
    r"(?:woman|man|girl|boy|lady|gentleman|guy|mother|father|mom|mum|dad|husband|wife|housewife|grandmother|grandfather)"
    rf"{_OF_A_PERSON}|(?:fe)?male{_OF_A_PERSON}"
)
_ILL = (
    r"(?:depress(?:ion|ed)|anxiety|anxious disorder|autis\w+|adhd|bipolar\w*|disab(?:led|ility)|mental(?:ly)? (?:ill\w*|health\w*)|illness|cancer|ptsd|"
    r"chronic(?:ally)? \w+|insomnia|addictions?|alcoholi\w+|eating disorder|diabet\w+|dementia|a (?:health|medical|mental) (?:condition|problem|issue))"
)
_HEALTH = (
    rf"(?:clinically |chronically |mildly |severely )?{_ILL}(?! (?:stor|film|movie|theme|drama|plot|character)\w*)(?! by\b)"
    r"|recovering (?:addict|alcoholic)|in (?:poor|ill|bad) health|pregnant"
)
_SUFFERS = (
    rf"\b(?:{_SUBJECT}|{_HINTS}) {_GAP}(?:suffer\w*|struggl\w+|liv(?:es?|ing)|deal(?:s|ing)?|cop(?:es?|ing)|diagnosed|battl\w+|recover\w*) "
    rf"(?:from|with|against) (?:\w+ ){{0,3}}{_ILL}"
)
_RELIGION = (
    r"(?:an? )?(?:(?:devout|practi[cs]ing|observant|born[- ]again|deeply|lapsed|strongly|evangelical) )*(?:christian|catholic|protestant|muslim|"
    rf"jewish|jew|hindu|buddhist|mormon|sikh|atheist|agnostic|religious|devout|church[- ]?goer|evangelical){_OF_A_PERSON}"
    r"|(?:an? )?(?:christian|catholic|muslim|jewish|hindu|religious) (?:faith|family|home|household|background|upbringing|beliefs)"
)
_PEOPLES = (
    r"(?:african[- ]american|american|british|english|french|german|italian|spanish|mexican|canadian|australian|japanese|chinese|korean|indian|asian|"
    r"hispanic|latin[oax]|black|white|caucasian|arab|european|irish|russian|immigrant|native american)"
)
_ORIGIN = rf"(?:an? )?{_PEOPLES}{_OF_A_PERSON}|(?:an? )?{_PEOPLES} (?:origin|descent|heritage|ancestry|ethnicity)"
_COMES = (
    rf"\b(?:{_SUBJECT}|{_HINTS}) {_GAP}(?:of|has|with|from) (?:an? )?(?:[\w-]+ ){{0,2}}{_PEOPLES}(?:[- ]\w+)? (?:origin|descent|heritage|ancestry|ethnicity|roots)"
    rf"|\b{_SUBJECT} (?:\w+ly )?(?:lives? in|comes? from|is from|are from|hails? from|was born in|were born in|resides? in) (?:the )?(?-i:[A-Z])"
)
_POLITICS = (
    r"politically \w+|(?:an? )?(?:(?:left|right)[- ]wing|left[- ]leaning|right[- ]leaning|republican|democrat|leftist|socialist|communist|libertarian|"
    rf"trump supporter){_OF_A_PERSON}|(?:an? )?(?:liberal|conservative|progressive) (?:voter|politics|political|person|viewer|user|in politics)"
)
_SEXUALITY = (
    rf"(?:an? )?(?:openly |closeted )?(?:gay|lesbian|bisexual|queer|lgbtq?\+?|homosexual|heterosexual|transgender|asexual){_OF_A_PERSON}"
    r"|(?:part|member) of the lgbt\w*|straight (?:man|woman|male|female)"
)
_VERBS = (
    r"(?:likes?|loves?|prefers?|enjoys?|rates?|rated|appreciates?|dislikes?|avoids?|favou?rs?|gravitates?|values|hates?|adores?|watch(?:es|ed)|reads?|"
    r"buys|bought|gives|gave|seeks|tends|seems|appears|leans|responds|is (?:drawn|a fan|a lover|fond|attracted|interested|likely|probably|not|also|very|a))"
)
# a pronoun that opens a sentence and has a taste speaks of the person; one inside a sentence is mostly a director's
_PRONOUN = (
    rf"(?:^|[.!?]['\"”’)]* )(?:He|She)(?! or |/)(?: (?:also|clearly|really|often|rarely|never|\w+ly))? {_VERBS}\b"
    r"|(?<!or )\b(?:his|her)(?! or |/) (?:own |personal |film |movie |reading )?(?:tastes?|preferences?|ratings?|viewing habits|reading habits|watch ?list)\b"
)
_GUESSES: dict[str, re.Pattern[str]] = {
    "age": re.compile(_CUE + rf"(?:{_AGE})", re.IGNORECASE),
    "gender": re.compile(_CUE + rf"(?:{_GENDER})|{_PRONOUN.replace('(?:He|She)', '(?-i:He|She)')}", re.IGNORECASE),
    "health": re.compile(_CUE + rf"(?:{_HEALTH})|{_SUFFERS}", re.IGNORECASE),
    "religion": re.compile(_CUE + rf"(?:{_RELIGION})", re.IGNORECASE),
    "origin": re.compile(_CUE + rf"(?:{_ORIGIN})|{_COMES}", re.IGNORECASE),
    "politics": re.compile(_CUE + rf"(?:{_POLITICS})", re.IGNORECASE),
    "sexuality": re.compile(_CUE + rf"(?:{_SEXUALITY})", re.IGNORECASE),
}
# cheap signs without which the costly pattern cannot match
_SIGNS: dict[str, re.Pattern[str]] = {
    "age": re.compile(
        r"\b(?:young|old|elder|middle|adult|teen|mature|college|retire|pension|senior|millenn|boomer|gen[- ]?[xz]|adolesc|\d\d|born|grew|raised|came of|preteen|twent|thirt|fort|fift|sixt|sevent|eight)",
        re.IGNORECASE,
    ),
    "gender": re.compile(
        r"\b(?:he|she|his|her|wom|man|m[au]m|mom|girl|boy|lady|gentle|guy|mother|father|dad|husband|wife|house|grand|male|female)",
        re.IGNORECASE,
    ),
    "health": re.compile(rf"\b(?:{_ILL}|recovering|health|pregnant)", re.IGNORECASE),
    "religion": re.compile(
        r"christian|catholic|protestant|muslim|jew|hindu|buddhist|mormon|sikh|atheist|agnostic|religious|devout|church|evangel",
        re.IGNORECASE,
    ),
    "origin": re.compile(rf"\b{_PEOPLES}|\b(?:lives?|comes?|from|hails?|born|resides?)\b", re.IGNORECASE),
    "politics": re.compile(
        r"politic|wing|leaning|republican|democrat|leftist|socialist|communist|libertarian|trump|liberal|conservative|progressive",
        re.IGNORECASE,
    ),
    "sexuality": re.compile(r"\b(?:gay|lesbian|bisex|queer|lgbt|homosex|heterosex|transg|asexual|straight)", re.IGNORECASE),
}
KINDS = tuple(_GUESSES)


def guess(text: str, given: str = "") -> str:
    """What a text about a person guesses of them; empty: nothing.

    Args:
        text: an answer of a user view.
        given: the attributes that the prompt showed ("gender: f"); a kind that stands there was told, not guessed.

    Returns:
        `age: 'probably in his early thirties'`.
    """
    told = given.lower()
    joined = " ".join(text.split())
    for kind, pattern in _GUESSES.items():
        if kind in told or (kind == "gender" and "sex" in told) or not _SIGNS[kind].search(joined):
            continue
        if found := pattern.search(joined):
            return f"{kind}: {found.group(0).strip()[:80]!r}"
    return ""
