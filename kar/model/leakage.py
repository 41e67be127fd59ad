"""Leak checks of every training, on the tables themselves, whatever stage made them: see `refuse`.

That no text has seen what an example asks is the examples stage's check, for it knows every text's evidence; here it is held once
more against the histories that the prompts were shown. Shape suffix: E examples of a part
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kar.errors import LeakError

COLUMNS = ("user_id", "item_id", "position", "split")
"""What is read of the examples."""


def refuse(examples: Iterable[pa.Table], history: pa.Table, example_item: pa.Table) -> None:
    """Refuse examples that a prompt has seen, and training examples of an item that is held out of training.

    Args:
        examples: parts of the table example, of at least `COLUMNS`.
        history: user_id and position of the snapshot's table history: events of the user that his prompt may have shown.
        example_item: as declared.

    Raises:
        LeakError: an example lies inside its user's history, or is trained on although its item is held out.
    """
    held_out = example_item.filter(example_item["is_held_out"])["item_id"].combine_chunks()
    user_ids, shown = history["user_id"].combine_chunks(), np.append(history["position"].to_numpy(), 0)
    for example in examples:
        found = pc.fill_null(pc.index_in(example["user_id"], value_set=user_ids), len(user_ids)).to_numpy()
        _none(example, example["position"].to_numpy() < shown[found], "lie inside the history that their user's prompt was shown")
        is_hidden_E = pc.and_(pc.equal(example["split"], "train"), pc.is_in(example["item_id"], value_set=held_out))
        _none(example, is_hidden_E.to_numpy(), "are trained on although their item is held out of training")


def _none(example: pa.Table, is_bad_E: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], what: str) -> None:
    if is_bad_E.any():
        first = example.slice(int(np.flatnonzero(is_bad_E)[0]), 1).to_pylist()[0]
        raise LeakError(
            f"{int(is_bad_E.sum())} examples {what}; the first: user {first['user_id']!r}, item {first['item_id']!r}, "
            f"place {first['position']} in the user's order",
            "make the examples again: kar run examples; the histories of their snapshot may have been made anew since",
        )
