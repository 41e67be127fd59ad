"""Histories as lines of text, for many users at once: each distinct line is cleaned, written and counted one time.

Shape suffixes: U users · E events of all users, user after user, oldest first · L distinct lines
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.text.clean import TITLE_CHARS, clean

Count = Callable[[list[str]], np.ndarray]
_USERS = 16_384  # whose lines are joined at once: what is joined lies in memory twice


@dataclass(frozen=True)
class HistoryLines:
    """The lines of some users' histories.

    Args:
        lines: [L], the distinct lines.
        line: int64 [E], which of them each event is.
        each_tokens: int64 [E], tokens of each event's line with what separates it from the next.
        offset: int64 [U+1]; user u's events are offset[u]:offset[u+1].
    """

    lines: list[str]
    line: np.ndarray
    each_tokens: np.ndarray
    offset: np.ndarray

    def fit(self, room: int | np.ndarray) -> np.ndarray:
        """First shown event of each user, so that the shown lines take at most `room` tokens; oldest dropped first.

        Args:
            room: tokens, one number for all or int64 [U].

        Returns:
            int64 [U], places in E; equal to the user's end if not even the newest line fits.
        """
        total_E1 = np.concatenate([[0], np.cumsum(self.each_tokens)])
        begin_U, end_U = self.offset[:-1], self.offset[1:]
        fitting_U = np.searchsorted(total_E1, total_E1[end_U] - room, side="left")
        first_U: np.ndarray = np.clip(fitting_U, begin_U, end_U)
        return first_U

    def tokens(self, first_U: np.ndarray) -> np.ndarray:
        """int64 [U]: tokens of the lines from `first_U` to each user's end."""
        total_E1 = np.concatenate([[0], np.cumsum(self.each_tokens)])
        shown: np.ndarray = total_E1[self.offset[1:]] - total_E1[first_U]
        return shown

    def text(self, user: int, first: int, separator: str = "\n") -> str:
        """One user's lines from event `first` on, oldest first."""
        lines = self.lines
        return separator.join([lines[line] for line in self.line[first : self.offset[user + 1]].tolist()])

    def texts(self, first_U: np.ndarray, separator: str = "\n") -> pa.ChunkedArray:
        """Every user's lines from their event `first_U` on, as `text` writes them."""
        lines, end_U = pa.array(self.lines, pa.string()), self.offset[1:]
        return pa.chunked_array(
            [
                _joined(lines, self.line, first_U[begin : begin + _USERS], end_U[begin : begin + _USERS], separator)
                for begin in range(0, len(first_U), _USERS)
            ],
            pa.string(),
        )


def history_lines(
    history: pa.Table, write: Callable[[str, float], str], count: Count, separator: str = "\n", title_chars: int = TITLE_CHARS
) -> HistoryLines:
    """Write and count the lines of a history table.

    Args:
        history: columns titles (list<string>) and ratings (list<float64>, NaN: none), oldest first.
        write: clean title and rating → line.
        count: texts → tokens, int [N].
        separator: stands between two lines; counted with each.
    """
    titles = history.column("titles")
    offset_U1 = np.concatenate([[0], np.cumsum(pc.list_value_length(titles).to_numpy().astype(np.int64))])
    coded = pc.list_flatten(titles).combine_chunks().dictionary_encode()
    rated = pc.list_flatten(history.column("ratings")).combine_chunks().dictionary_encode()
    rating_R, place = np.unique(rated.dictionary.to_numpy(), return_inverse=True)  # all NaN are one value
    rating_E = place[rated.indices.to_numpy()]
    pair_E = coded.indices.to_numpy().astype(np.int64) * max(len(rating_R), 1) + rating_E
    pair_L, line_E = _distinct(pair_E, len(coded.dictionary) * len(rating_R))
    cleaned = [clean(title, title_chars) for title in coded.dictionary.to_pylist()]
    values = rating_R.tolist()
    lines = [write(cleaned[pair // len(values)], values[pair % len(values)]) for pair in pair_L.tolist()]
    tokens_L = count([line + separator for line in lines]).astype(np.int64)
    return HistoryLines(lines, line_E, tokens_L[line_E], offset_U1)


def _distinct(values: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in order, and the place of each value among them; by marking them where that costs less than sorting.

    Args:
        values: int64, 0 to end − 1.
    """
    if end > 4 * len(values):
        return np.unique(values, return_inverse=True)
    is_there = np.zeros(end, bool)
    is_there[values] = True
    return np.flatnonzero(is_there), (np.cumsum(is_there) - 1)[values]


def _joined(lines: pa.Array, line_E: np.ndarray, first_U: np.ndarray, end_U: np.ndarray, separator: str) -> pa.Array:
    """One text a user: the lines from `first_U` to `end_U`."""
    offset = np.concatenate([[0], np.cumsum(end_U - first_U)])
    shown = np.repeat(first_U - offset[:-1], end_U - first_U) + np.arange(offset[-1])
    own = pa.ListArray.from_arrays(pa.array(offset, pa.int32()), lines.take(pa.array(line_E[shown])))
    return pc.binary_join(own, separator)
