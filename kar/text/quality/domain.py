"""Whether a text is about this kind of item at all, told by words: those of the domain against those of other things.

The domain's own words are the `vocabulary` of prompts/<domain>/factors.toml with the words of its factors, hints and
nouns. Foreign words are the vocabularies of the domains beside it and a list of what language models slip into
(kitchen, gadgets, code, shop talk, help desk), less the domain's own. A text is foreign when it has several foreign words and more
of them than of its own. A domain without vocabulary needs stronger signs.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from kar.text.factors import FILE, Factors, load_factors
from kar.text.quality.words import words_of

_LEAST_FOREIGN = 4
_LEAST_FOREIGN_BARE = 7  # where the domain has no vocabulary of its own
_COMMON_TEXT = """
what who where when how why which that this with from about into over than then them they their these those and the for are was were its
it is of in on at to by or as an a be not no one two more most all any some has have does do make makes made else
"""
_ELSEWHERE_TEXT = """
tablespoon tablespoons teaspoon teaspoons tbsp tsp cup cups flour butter sugar salt pepper garlic onion onions oven preheat simmer saute sauté
whisk stir bake baked baking boil boiling dough batter sauce recipe recipes ingredients ingredient skillet saucepan pan chopped diced
minced olive oil cheese tomato tomatoes soup broth vanilla cinnamon basil oregano parsley cream milk egg eggs dish cuisine culinary flavor
    flavors flavour flavours savory savoury tasty delicious umami seasoning garnish serve serves dessert chicken beef spaghetti pasta noodles
rice salad foodie wine wines meal meals cocoa frosting yeast lemon
battery mah charger charging megapixel megapixels smartphone laptop tablet processor ram storage gb ghz usb bluetooth wifi android iphone
ios software hardware firmware device devices warranty waterproof ergonomic durable durability insulated stainless packaging shipping
delivery refund checkout discount customers customer brand brands affordable price priced pricing sleek fit comfortable comfort shoe shoes
def return import print function variable array integer string python javascript java html css json api database server query code algorithm
loop sorted sort compile syntax boolean
photosynthesis glucose chlorophyll molecule molecules enzyme cell cells organism organisms protein vitamin dosage symptoms diagnosis
treatment patients tyre tyres wheel wheels wrench bolt bolts pedal rim
investment investors stocks dividend revenue quarterly shares earnings inflation mortgage insurance tax taxes gdp percent
assist assistance chatbot
hotel hotels booking airport itinerary flight flights
workout workouts calories protein diet exercise exercises muscles
"""
_TOO_COMMON, _ELSEWHERE = frozenset(_COMMON_TEXT.split()), frozenset(_ELSEWHERE_TEXT.split())


class DomainWords:
    """The words of a domain and of what it is not.

    Args:
        own: words of the domain, lower case.
        foreign: words of other things; those that are the domain's own count as its own.
        has_vocabulary: whether `own` is more than the factors' own words.
    """

    def __init__(self, own: Collection[str], foreign: Collection[str] = (), *, has_vocabulary: bool = True) -> None:
        self._own = frozenset(own) - _TOO_COMMON
        self._foreign = (frozenset(foreign) | _ELSEWHERE) - self._own - _TOO_COMMON
        self._least = _LEAST_FOREIGN if has_vocabulary else _LEAST_FOREIGN_BARE

    def fault(self, words: Collection[str]) -> str:
        """Which foreign words outweigh the domain's own; empty: the text may be about the domain.

        Args:
            words: of the text, lower case.
        """
        distinct = set(words)
        own = self._own & distinct
        foreign = self._foreign & distinct
        if len(foreign) < self._least or len(foreign) <= len(own):
            return ""
        return f"{len(foreign)} words of other things ({', '.join(sorted(foreign)[:6])}) and {len(own)} of the domain's"


def load_domain_words(folder: Path, domain: str) -> DomainWords:
    """The words of prompts/<domain>/factors.toml and of the domains beside it.

    Args:
        folder: prompts/.

    Raises:
        TemplateError: a factors.toml that is none.
    """
    own = load_factors(folder, domain)
    others = [load_factors(folder, path.parent.name) for path in sorted(folder.glob(f"*/{FILE}")) if path.parent.name != domain]
    foreign = {word for factors in others for word in factors.vocabulary}
    return DomainWords(_words(own), foreign, has_vocabulary=bool(own.vocabulary))


def _words(factors: Factors) -> set[str]:
    said = [factors.item.singular, factors.item.plural, *(f"{f.name} {f.hint}" for f in factors.factors), *factors.vocabulary]
    return {word for text in said for word in words_of(text.lower())}
