"""Which language a text is in: py3langid, whose model lies in its wheel; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from kar.errors import SettingsError

_LEAST_WORDS = 10  # below that titles and names decide
_JUDGED_CHARS = 250  # more makes it no surer, and it is pure Python
_QUOTES = frozenset('"“”‘«»*_(')
_SURE = 0.85  # on 3,043 good English texts full of foreign names the largest probability of another language is lower


class Languages:
    """The languages that answers may be in.

    Args:
        wanted: ISO 639-1 codes; none: every language will do, and no model is loaded.

    Raises:
        SettingsError: a code that the model does not know.
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self._wanted = frozenset(wanted)
        if self._wanted and (unknown := sorted(self._wanted - set(_identifier().labels))):
            raise SettingsError(
                f"knowledge.languages names {', '.join(unknown)}, which the language model does not know",
                "write ISO 639-1 codes such as en, de, zh; an empty list checks no language",
            )

    def fault(self, text: str, word_count: int) -> str:
        """What language it is in, with the probability, if it is surely none of the wanted; empty: no fault."""
        if not self._wanted or word_count < _LEAST_WORDS:
            return ""
        # capitals are names and titles, which keep their language wherever they stand; German keeps enough without its nouns
        tokens = text[: 2 * _JUDGED_CHARS].split()
        small = [word for word in tokens if not word[:1].isupper() and word[:1] not in _QUOTES]
        if len(small) < _LEAST_WORDS and 2 * len(small) < len(tokens):
            return ""
        judged = " ".join(small) if len(small) >= _LEAST_WORDS else text  # Chinese and Japanese have few blanks
        language, probability = _identifier().classify(judged[:_JUDGED_CHARS])
        if language in self._wanted or probability < _SURE:
            return ""
        return f"written in {language!r} ({probability:.0%} sure), asked for {', '.join(sorted(self._wanted))}"


@cache
def _identifier() -> LanguageIdentifier:
    """Loaded once, about 1 s."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
