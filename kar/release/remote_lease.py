"""A lease on a release in an object store: the same file, put there; and the order of steps that makes it hold without a lock.

A reader puts its lease and then looks whether the release is still there. A collector removes the manifest and then looks whether a lease
came (`remote_checkout.Checkout.push_state`); if one did, the manifest goes back. So of the two at least one sees the other: a store answers
with what was put last.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from kar.errors import ReleaseError, ReleaseNotFound, StoreError
from kar.release import layout, leases
from kar.release.leases import Lease
from kar.release.remote_checkout import ORIGIN, release_folder
from kar.release.remote_place import S3Place


def take(published: Path, release: str, seconds: float, reader: str = "") -> Lease:
    """A lease on a release of a published folder, or of the store that the folder is a checkout of. Arguments and errors as `Lease`."""
    return (StoreLease if (published / ORIGIN).is_file() else Lease)(published, release, seconds, reader)


class StoreLease(Lease):
    """As `Lease`.

    Raises:
        StoreError: nothing answers, the store refuses, or kar[s3] is not installed.
    """

    def __init__(self, published: Path, release: str, seconds: float, reader: str = "") -> None:
        self._place = S3Place((published / ORIGIN).read_text(encoding="utf-8"))
        self._sending = threading.RLock()  # nothing is put there after the lease was given back
        super().__init__(published, release, seconds, reader)

    def renew(self) -> None:
        with self._sending:
            super().renew()
            if self._closed.is_set():
                return
            self._place.write(self._name, (self._published / self._name).read_bytes())
            if self._place.read(f"{release_folder(self.told.release)}/{layout.MANIFEST}") is None:
                with contextlib.suppress(StoreError):
                    self._place.delete(self._name)
                raise ReleaseNotFound(
                    f"there is no release {self.told.release!r} in {self._place.uri} to lease: it was removed",
                    "open the one that is served now",
                )

    def close(self) -> None:
        if self._closed.is_set():
            return
        with self._sending:
            super().close()
            if self._closed.is_set():
                with contextlib.suppress(ReleaseError):  # a lease that cannot be removed runs out by itself
                    self._place.delete(self._name)

    @property
    def _name(self) -> str:
        return f"{leases.folder(Path()).name}/{self.told.id}.json"
