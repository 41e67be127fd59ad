"""Forget users and items: take every byte about them out of a scenario's home, and keep them out.

    from kar.forget import forget
    receipt = forget(settings, home, Subjects(users=frozenset({"42"})), now)

What is rewritten, in this order, so that a killed run finds what it needs to go on:

    the list of who was forgotten     first: from now on no stage reads them again
    ledger, batches                   rows of their requests, what asked them again, what quotes them
    releases                          published anew as new ids; CURRENT, its history and the pins name the new ones
    partitions, last stage first      their rows; whatever counts or numbers rows is counted anew
    manifests                         digests of the rewritten tables in every recipe, so that a rerun of the night is a no-op
    reports that name them            made again
    work folders, remains of crashes  removed

Trained weights, means over many users (an item's mean rating, the pooled vectors of users who met a forgotten item) and texts about others are not
touched; the receipt says so.
"""

from kar.forget.forgetting import forget
from kar.forget.receipt import Receipt
from kar.forget.requests import WorkedOff, work_off
from kar.forget.subjects import Subjects, ids_in

__all__ = ["Receipt", "Subjects", "WorkedOff", "forget", "ids_in", "work_off"]
