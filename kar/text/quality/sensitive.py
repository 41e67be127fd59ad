"""What a text guesses about a person that nobody asked it to: age, gender, health, religion, origin, politics, sexuality.

A guess has three parts: somebody it is about ("this viewer is", "probably", "suggests"), at most six words between,
and a class of people. Words that open a content ("films about", "stories of", "drawn to") may not stand between:
"likely a young woman in her twenties" is a guess, "is drawn to stories of young women" is none. Classes of people are
looked for first, because they are rare; only the words before one are then read for the other two parts.
"""

from __future__ import annotations

import re
from itertools import islice

_SUBJECT = (
    r"(?:(?:this|the|our) (?:\w+ )?(?:user|person|viewer|reader|customer|individual|shopper|buyer|subscriber|watcher|rater|fan)"
    r"|they|he|she|user|viewer|reader|person)"
)
_SAYS = r"(?:is|are|was|['’]re|seems?|appears?|looks?|sounds?|may|might|could|must|has|have|holds?|identif(?:y|ies) as|describes? \w+ as|grew|was born)"
_HINTS = (
    r"(?:likely|probably|perhaps|possibly|presumably|suggest(?:s|ing)?|indicat(?:es?|ing)|impl(?:y|ies|ying)|points? to|pointing to|"
    r"hints? at|reveals?|typical of|profile of|belong(?:s|ing)? to|those of|looking at|dealing with|looks? like|fits?|marks? (?:them|him|her) as|in all likelihood|(?:in|the) profile of|one pictures|consistent with|characteristic of|guess(?:es|ing)?|assume|(?:appear|seem)s? to be|evidently|"
    r"(?:may|might|could|must) (?:well )?be)"
)
_BARRED = (
    r"about|of|with|featuring|to(?! (?:be|have|live|suffer|struggle|cope|deal)\b| $)|on|by|like|likes|liked|love|loves|loved|enjoy|enjoys|enjoyed|prefer|prefers|for|over|against|into|starring|where|"
    r"when|because|since|if|that|which|whose|who|than|through|stories|films|movies|books|tales|leads|rather|not|never|no|share|shares|interest|"
    r"fives?|fours?|stars?|marks?|points?|praise"
)
# what stands before a guess, up to its end; `$` is where the class of people begins
_LEADS_TO = re.compile(
    rf"(?:\b{_SUBJECT}(?:(?: \w+ly)?,? ?{_SAYS}\b|,)|\b{_HINTS}\b)[,:]? ?(?:(?!(?:{_BARRED})\b)[\w'’-]+[,:]? ){{0,6}}$", re.IGNORECASE
)
_LEAD_CHARS = 110
_FOLLOWS = re.compile(
    r"[^.!?;]{0,30}\b(?:(?:is|are|seems?|looks?) (?:most |very |quite )?(?:likely|probable|plausible|suggested|implied)|emerges)\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?;]['\"”’)]* ")
_MOST_MENTIONS = 64  # of one kind; a text with more of them is no description of a person

_OF_A_PERSON = (
    r"(?=[.,;:!?)]|$| (?:person|viewer|user|reader|individual|customer|shopper|man|woman|adult|teen\w*|background|believer|household|upbringing|"
    r"who|of (?:\w+ )?(?:children|kids|two|three)|and|or|with|in|based|given|living|aged|between|from|of (?:about|around)|by (?:birth|faith))\b)"
)
_AGE = (
    r"(?:young|younger|older?|elderly|middle[- ]aged|adult|teenaged?|mature|college[- ]aged?|retired) (?:\w+ )?(?:person|viewer|user|reader|individual|"
    rf"adult|customer)\b|(?:an? )?(?:teenager|teen|adolescent|retiree|pensioner|senior citizen|millennial|(?:baby )?boomer|[Gg]en[- ]?(?:[XxZz])(?:er)?|"
    rf"preteen|middle[- ]aged|elderly){_OF_A_PERSON}"
    r"|\d{1,3}(?:[- ]years?[- ]old| years of age)\b|(?:around|about|roughly|approximately|nearly) (?:age )?(?:\d{2}|twenty|thirty|forty|fifty|sixty|seventy)"
    r"(?=[.,;]|$| (?:years?|or)\b)|aged? (?:around |about |between |range )?\d{1,2}\b|(?:between )?\d{2} (?:and|to|or) \d{2} years"
    r"|(?:in )?(?:his|her|their) (?:(?:early|mid|late)[- ](?:(?:to|or)[- ](?:mid|late)[- ])?)?"
    r"(?:teens|twenties|thirties|forties|fifties|sixties|seventies|eighties|[1-8]0['’]?s)\b|born (?:around|in|about) (?:19|20)\d\d\b"
    r"|(?:born|grew up|up|raised|came of age) in the (?:early |mid |late )?(?:\d{4}s|\d0s|fifties|sixties|seventies|eighties|nineties)"
)
_GENDER = (
    r"(?:an? )?(?:(?:young|younger|old|older|elderly|middle[- ]aged|adult|mature|professional|single|married|college[- ]aged|teenage|straight) ){0,3}"
    r"(?:woman|man|girl|boy|lady|gentleman|guy|mother|father|mom|mum|dad|husband|wife|housewife|widow|widower|grandmother|grandfather|(?:fe)?male)"
    rf"{_OF_A_PERSON}"
)
_ILL = (
    r"(?:depress(?:ion|ed)|anxiety|autis\w{1,4}|adhd|ADHD|bipolar|disab(?:led|ility)|mental(?:ly)? (?:ill\w{0,4}|health\w{0,4})|illness|cancer|ptsd|PTSD|"
    r"chronic(?:ally)? \w{3,12}|insomnia|addictions?|alcoholi(?:c|sm)|on the (?:autism )?spectrum|(?:hearing|visually|sight)[- ]impaired|in recovery from \w+|eating disorder|diabet\w{1,4}|dementia|(?:health|medical|mental) (?:condition|problem|issue)s?)"
)
_HEALTH = (
    rf"(?:a |an )?(?:clinically |chronically |mildly |severely )?{_ILL}(?! (?:stor|film|movie|theme|drama|plot|character|by\b))"
    r"|recovering (?:addict|alcoholic)|in (?:poor|ill|bad) health|pregnant\b"
    rf"|(?:suffer|struggl|liv|deal|cop|diagnos|battl|recover|treat)\w{{0,4}} (?:from|with|against|for) (?:\w+ ){{0,3}}{_ILL}"
)
_RELIGION = (
    r"(?i:(?:an? )?(?:(?:devout|practi[cs]ing|observant|born[- ]again|deeply|lapsed|strongly) ){0,2}(?:christian|catholic|protestant|muslim|jewish|"
    rf"jew|hindu|buddhist|mormon|sikh|atheist|agnostic|religious|devout|church[- ]?goer|evangelical){_OF_A_PERSON})"
    r"|(?i:(?:an? )?(?:christian|catholic|muslim|jewish|hindu|religious) (?:faith|family|home|household|background|upbringing|beliefs)\b)"
    r"|(?:religion|faith) is (?:likely |probably )?[A-Z]"
)
_PEOPLE = (
    r"(?:African[- ]American|American|British|English|French|German|Italian|Spanish|Mexican|Canadian|Australian|Japanese|Chinese|Korean|Indian|Asian|"
    r"Hispanic|Latin[oax]|Black|White|black|white|Caucasian|Arab|European|Irish|Russian|Scandinavian|African|Brazilian|Polish|Turkish|Nigerian|Vietnamese|immigrant|Native American)"
)
_ORIGIN = (
    rf"(?:an? )?(?:\w{{3,8}}[- ])?{_PEOPLE}(?: (?:origin|descent|heritage|ancestry|ethnicity|roots)|{_OF_A_PERSON})"
    rf"|(?:an? )?{_PEOPLE} background\b|from (?:the )?(?:Brazil|India|China|Japan|Korea|Mexico|Germany|France|Spain|Italy|Russia|Africa|Asia|Europe|America|UK|US|USA)\b"
    rf"|(?:an? )?(?:native )?{_PEOPLE} speaker\b|(?:of|has|with|from) (?:an? )?(?:[\w-]+ )?{_PEOPLE}(?:[- ][\w-]+)? (?:origin|descent|heritage|ancestry|ethnicity|roots)"
)
_POLITICS = (
    r"politically [a-z]+|(?i:(?:an? )?(?:(?:left|right)[- ](?:wing|leaning)|republican|democrat|leftist|socialist|communist|libertarian)"
    rf"{_OF_A_PERSON})|(?:an? )?(?:liberal|conservative|progressive) (?:voter|politics|political|in politics)"
    r"|(?:liberal|conservative|progressive|left-wing|right-wing) (?:political )?(?:views|beliefs|leanings)\b"
)
_SEXUALITY = (
    rf"(?:an? )?(?:openly |closeted )?(?:gay|lesbian|bisexual|queer|(?:lgbt|LGBT)[qQ]?\+?|homosexual|heterosexual|transgender|asexual){_OF_A_PERSON}"
    r"|(?:part|member) of the (?:lgbt|LGBT)\w{0,4}|straight (?:and (?:married|single)|man|woman|male|female)\b"
)
_CLASSES: dict[str, re.Pattern[str]] = {
    kind: re.compile(rf"(?<![\w’'-])(?:{pattern})(?![’'][a-z])")
    for kind, pattern in {
        "age": _AGE,
        "gender": _GENDER,
        "health": _HEALTH,
        "religion": _RELIGION,
        "origin": _ORIGIN,
        "politics": _POLITICS,
        "sexuality": _SEXUALITY,
    }.items()
}
_VERBS = (
    r"(?:likes?|loves?|prefers?|enjoys?|rates?|rated|appreciates?|dislikes?|avoids?|favou?rs?|gravitates?|values|hates?|adores?|watch(?:es|ed)|reads?|"
    r"buys|bought|gives|gave|seeks|tends|seems|appears|leans|responds|is (?:drawn|a fan|a lover|fond|attracted|interested|likely|probably|not|also|very))"
)


# guesses that need nobody before them; a pronoun that opens a sentence and has a taste speaks of the person, one
# inside a sentence is mostly a director's
def _stated(attribute: str) -> re.Pattern[str]:
    """`the person's religion is …`"""
    return re.compile(rf"(?:['’]s|\b[Tt]heir|\b[Hh]is|\b[Hh]er) (?:{attribute}) (?:is|seems|appears|may|might|could)\b")


_OUTRIGHT: dict[str, re.Pattern[str]] = {
    "gender": re.compile(
        rf"(?:^|[.!?]['\"”’)]* )(?:He|She)(?! or |/)(?: (?:also|clearly|really|often|rarely|never|\w{{3,14}}ly))? {_VERBS}\b"
        r"|(?<!or )\b(?:his|her|His|Her)(?! or |/) (?:own |personal |film |movie |reading |favou?rite )?"
        r"(?:tastes?|preferences?|ratings?|genres? (?:is|are)|viewing habits|reading habits|watch ?list)\b"
        r"|^(?:This is )?An? (?:\w+ )?(?:woman|man|girl|boy|lady|gentleman|guy) (?:who|with|in (?:his|her))\b"
    ),
    "age": re.compile(
        r"^(?:This is )?An? (?:teenager|teen|retiree|\d\d-year-old) (?:who|with|in)\b|[Aa]ge(?:d| is|:) (?:about |around )?\d{1,2}\b"
    ),
    "politics": re.compile(
        r"\bleans? (?:politically )?(?:to the )?(?:left|right)\b(?! (?:on|into|towards))|\b(?:left|right) politically\b"
    ),
    "religion": _stated("religion|faith"),
    "sexuality": _stated("sexuality|sexual orientation"),
    "origin": re.compile(
        rf"\b{_SUBJECT.replace('(?:this|the|our)', '(?:[Tt]his|[Tt]he|[Oo]ur)').replace('they|he|she', '[Tt]hey|[Hh]e|[Ss]he')} "
        r"(?:\w+ly )?(?:lives? in|comes? from|is from|are from|hails? from|was born in|were born in|resides? in) (?:the )?[A-Z]"
    ),
}
KINDS = tuple(_CLASSES)
# of the kinds whose words are rare: what stands in every one of their patterns, so that most texts skip them
_SIGN_TEXT = {
    "health": """depress anxi autis spectrum adhd bipolar disab mental ill cancer ptsd chronic insomnia addict alcohol disorder diabet dementia
        condition problem issue health recover pregnant impaired""",
    "religion": """christian catholic protestant muslim jew hindu buddhist mormon sikh atheist agnostic religio devout church evangelical faith""",
    "politics": """politic wing lean republican democrat leftist socialist communist libertarian liberal conservative progressive""",
    "sexuality": """gay lesbian sexual queer lgbt transgender straight""",
}
_SIGNS = {kind: tuple(text.split()) for kind, text in _SIGN_TEXT.items()}


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
    lower = joined.lower()
    for kind, classes in _CLASSES.items():
        if kind in told or (kind == "gender" and "sex" in told):
            continue
        if kind in _SIGNS and not any(sign in lower for sign in _SIGNS[kind]):
            continue
        if kind in _OUTRIGHT and (outright := _OUTRIGHT[kind].search(joined)):
            return f"{kind}: {outright.group(0).strip(' .')[:80]!r}"
        for mention in islice(classes.finditer(joined), _MOST_MENTIONS):
            lead = _SENTENCE.split(joined[max(0, mention.start() - _LEAD_CHARS) : mention.start()])[-1]
            if found := _LEADS_TO.search(lead):
                return f"{kind}: {(found.group(0) + mention.group(0))[:80]!r}"
            if found := _FOLLOWS.match(joined, mention.end()):
                return f"{kind}: {(mention.group(0) + found.group(0))[:80]!r}"
    return ""
