"""Whether a text is about this kind of item at all, told by words: those of the domain against those of other things.

The domain's own words are the `vocabulary` of prompts/<domain>/factors.toml with the words of its factors, hints and
nouns. Other things are the domains beside it, and what language models slip into (kitchen, gadgets, code …); a word
that is the domain's own is nobody else's. A text is foreign when it has several words of one other thing, and clearly more
of them than of its own (words of many things are just words), or a few and none of its own at all. A domain without vocabulary needs stronger signs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from kar.text.factors import FILE, Factors, load_factors
from kar.text.quality.words import words_of

_LEAST = 4
_LEAST_BARE = 7  # where the domain has no vocabulary of its own
_LEAD = 2  # more words than the domain's own
_LEAST_ALONE, _WORDS_ALONE = 2, 30  # of a text of so many words that holds no word of the domain at all
_COMMON_TEXT = """
what who where when how why which that this with from about into over than then them they their these those and the for are was were its
it is of in on at to by or as an a be not no one two more most all any some has have does do make makes made else
"""
_ELSEWHERE_TEXT = {
    "kitchen": """
tablespoon tablespoons teaspoon teaspoons tbsp tsp cup cups flour butter sugar salt pepper garlic onion onions oven preheat simmer saute sauté
whisk stir bake baked baking boil boiling dough batter sauce recipe recipes ingredients ingredient skillet saucepan pan chopped diced loaf
minced olive oil cheese tomato tomatoes soup broth vanilla cinnamon basil oregano parsley cream milk egg eggs dish dishes cuisine culinary
flavor flavors flavour flavours flavorful savor savory savoury tasty delicious umami seasoning garnish serve serves dessert chicken beef meat meats
spaghetti pasta noodles rice salad foodie wine wines meal meals cocoa frosting yeast lemon herbs spices spicy sweet grilled food foods
restaurant taste texture cake bread crust chocolate
""",
    "gadgets": """
battery mah charger charging megapixel megapixels phone smartphone laptop tablet processor ram memory storage gb ghz usb bluetooth wifi wireless
android iphone ios app apps software hardware firmware device devices display keyboard speaker speakers headphones ports router network password
update updates warranty waterproof capacity screen camera
""",
    "code": """
def return returns import print function functions variable array integer string strings python javascript java html css json api database server
query code algorithm loop sorted sort sorts list compile syntax boolean index key script logs output input class object objects lambda
""",
    "school book": """
photosynthesis glucose chlorophyll molecule molecules enzyme cell cells organism organisms plants algae bacteria carbon dioxide oxygen energy chemical
process absorbs converted convert protein vitamin dosage symptoms diagnosis treatment patients
""",
    "workshop": """
tyre tyres tire tires wheel wheels wrench bolt bolts pedal rim bicycle lever levers tube pump brake frame screw screws loosen tighten remove lift
""",
    "money": """
investment investors stocks dividend revenue quarterly shares earnings inflation mortgage insurance tax taxes gdp percent loan loans interest
savings portfolio fund funds
""",
    "travel": """
hotel hotels booking airport itinerary flight flights luggage resort beach sightseeing tourist tourists destination destinations
""",
    "fitness": """
workout workouts calories protein diet exercise exercises muscles muscle fitness gym weight stretching
""",
}
_TOO_COMMON = frozenset(_COMMON_TEXT.split())
_ELSEWHERE = {name: frozenset(text.split()) for name, text in _ELSEWHERE_TEXT.items()}


class DomainWords:
    """The words of a domain and of what it is not.

    Args:
        own: words of the domain, lower case.
        others: the words of each other thing; those that are the domain's own do not count.
        has_vocabulary: whether `own` is more than the factors' own words.
    """

    def __init__(self, own: Collection[str], others: Mapping[str, Collection[str]] | None = None, *, has_vocabulary: bool = True) -> None:
        self._own = frozenset(own) - _TOO_COMMON
        things: dict[str, frozenset[str]] = {**_ELSEWHERE, **{name: frozenset(words) for name, words in (others or {}).items()}}
        self._of: dict[str, tuple[str, ...]] = {}
        for name, words in things.items():
            for word in words - self._own - _TOO_COMMON:
                self._of[word] = (*self._of.get(word, ()), name)
        self._has_vocabulary = has_vocabulary
        self._least = _LEAST if has_vocabulary else _LEAST_BARE

    def fault(self, words: Collection[str]) -> str:
        """Which other thing's words outweigh the domain's own; empty: the text may be about the domain.

        Args:
            words: of the text, lower case.
        """
        distinct = set(words)
        found: dict[str, list[str]] = {}
        for word in distinct:
            for name in self._of.get(word, ()):
                found.setdefault(name, []).append(word)
        own = len(self._own & distinct)
        name = max(sorted(found), key=lambda n: len(found[n]), default="")
        count = len(found.get(name, ()))
        is_alone = own == 0 and count >= _LEAST_ALONE and len(words) >= _WORDS_ALONE and self._has_vocabulary
        if not is_alone and (count < self._least or count < own + _LEAD):
            return ""
        return f"{count} words of {name} ({', '.join(sorted(found[name])[:6])}), {own} of its own domain"


def load_domain_words(folder: Path, domain: str) -> DomainWords:
    """The words of prompts/<domain>/factors.toml and of the domains beside it.

    Args:
        folder: prompts/.

    Raises:
        TemplateError: a factors.toml that is none.
    """
    own = load_factors(folder, domain)
    others = [load_factors(folder, path.parent.name) for path in sorted(folder.glob(f"*/{FILE}")) if path.parent.name != domain]
    return DomainWords(_words(own), {f.id: f.vocabulary for f in others}, has_vocabulary=bool(own.vocabulary))


def _words(factors: Factors) -> set[str]:
    said = [factors.item.singular, factors.item.plural, *(f"{f.name} {f.hint}" for f in factors.factors), *factors.vocabulary]
    return {word for text in said for word in words_of(text.lower())}
