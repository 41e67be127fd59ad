"""The published releases, each opened once and kept while it is there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np

from kar import release as releasing
from kar.errors import ReleaseError, ReleaseNotFound
from kar.release import Listed, Release
from kar.release.layout import Kind, Side
from kar.release.remote import looked
from kar.release.shelf import list_releases, problems
from kar.store import Home

_KEPT = 16


class Shelf:
    """Opens releases by id. May be asked from several threads. A release that was deleted is let go at the next question."""

    def __init__(self, home: Home) -> None:
        self._where = home.releases_at
        self._opened: OrderedDict[str, Release] = OrderedDict()
        self._turn = threading.Lock()

    def listed(self) -> tuple[list[Listed], list[str]]:
        """Every release, newest publication first, damaged ones last; and what is wrong with the place itself: CURRENT, pins, leases."""
        try:
            found, wrong = looked(self._where, lambda folder: (list_releases(folder), problems(folder)))
        except ReleaseError as error:  # a store that cannot be reached
            return [], [f"The releases cannot be read: {error.what}"]
        with self._turn:
            for gone in self._opened.keys() - {entry.id for entry in found}:
                del self._opened[gone]
        return found, [f"The releases: {error.what}" for error in wrong]

    def current(self, listed: list[Listed]) -> Listed | None:
        return next((entry for entry in listed if entry.is_current), None)

    def open(self, release_id: str, listed: list[Listed]) -> Release:
        """A release that is in the list: an id is looked up, never made into a path by itself.

        Raises:
            ReleaseNotFound: it is not in the list.
            ReleaseError: it is damaged.
        """
        entry = next((entry for entry in listed if entry.id == release_id), None)
        if entry is None:
            raise ReleaseNotFound(f"there is no release {release_id!r}", "choose one from the list of releases")
        if entry.manifest is None:
            raise ReleaseError(entry.problem, "serve another: kar release rollback ID")
        with self._turn:
            if entry.id not in self._opened:
                self._opened[entry.id] = releasing.open(f"{self._where}/releases/{entry.id}")
                while len(self._opened) > _KEPT:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(entry.id)
            return self._opened[entry.id]


def vector_at(release: Release, side: Side, view: str, subject: Any, kind: Kind) -> np.ndarray | None:
    """float32 [W], the subject's vector in a release; None where it has none, or the release no such view."""
    if view not in release.views(side, kind):
        return None
    vectors_NW, is_missing = release.vectors(side, view, [subject], kind)
    return None if is_missing[0] else vectors_NW[0]
