"""Leases: a reader says which release it reads, and `collect` leaves that release alone until the lease runs out.

    published/leases/<id>.json   release, reader, pid, host, taken_at, expires_at; renewed by the reader, gone when it is done

    release = kar.release.open("…/published")
    with release.lease(600, "nightly DIN training"):
        train(release)                                 # ten hours; a thread renews the lease

    release = kar.release.open("…/published", lease_s=600)     # leased before the first file is opened, for as long as the object lives

Who may take or drop what is settled by one lock, `leases/.lock`, held for milliseconds and never while files are copied or verified:
readers take it together, the collector and `pin` take it alone. So a release that was leased is never renamed under its reader, and a lease on
a release that is gone already is refused. Clocks: a lease is live until `ALLOWANCE` after its `expires_at`, since two machines' clocks differ;
renewing never brings `expires_at` forward, so a reader's clock that was set back shortens nothing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kar.errors import ReleaseCorrupt, ReleaseError, ReleaseNotFound
from kar.release import durable, layout, manifest, pointer

ALLOWANCE = dt.timedelta(seconds=60)
_LONGEST_S = 7 * 24 * 3600.0
_RENEWALS = 3  # a lease's length holds so many


@dataclass(frozen=True)
class Leased:
    """What a lease file says."""

    id: str
    release: str
    reader: str
    pid: int
    host: str
    taken_at: dt.datetime
    expires_at: dt.datetime

    def is_live(self, at: dt.datetime) -> bool:
        return at <= self.expires_at + ALLOWANCE

    def __str__(self) -> str:
        return f"{self.reader} (process {self.pid} on {self.host}) until {self.expires_at:%Y-%m-%d %H:%M:%S} UTC"


class Lease:
    """A lease that this process holds and a thread renews; a context manager. Made by `Release.lease`.

    A process that was forked from the holder, or got this object by pickle, neither renews nor ends it.

    Args:
        published: the published folder.
        release: id.
        seconds: how long it lasts without being renewed: as long as the reader may be stopped, or its machine dead, before
            the release may go.
        reader: what others are told.
        clock: None: the machine's.

    Raises:
        ReleaseNotFound: the release is gone.
        ReleaseError: seconds are none, negative or more than a week, or the folder of leases cannot be written.
    """

    def __init__(
        self, published: Path, release: str, seconds: float, reader: str = "", clock: Callable[[], dt.datetime] | None = None
    ) -> None:
        if not 0 < seconds <= _LONGEST_S:
            raise ReleaseError(
                f"a lease of {seconds:g} s is none: it is renewed while its reader lives, so that minutes do",
                f"give more than 0 and at most {_LONGEST_S:g} s; to keep a release for good: kar release pin {release}",
            )
        self._published = published.absolute()
        self._seconds = seconds
        self._clock = clock or _now
        self._closed = threading.Event()
        self._one = threading.Lock()  # a renewal and the end of the lease exclude each other
        now = self._clock()
        self.problem = ""
        self.told = Leased(uuid.uuid4().hex[:16], release, reader or "a reader", os.getpid(), os.uname().nodename, now, now)
        try:
            self.renew()
        except OSError as error:
            raise ReleaseError(
                f"no lease could be written in {folder(published)}: {error}", "give the right to write there, or read without a lease"
            ) from error
        threading.Thread(target=self._keep_renewing, name=f"lease {self.told.id}", daemon=True).start()

    def renew(self) -> None:
        """Make it last `seconds` from now. The thread does that; call it only where no thread can run.

        Raises:
            ReleaseNotFound: the release is gone: the lease had run out, and it was collected.
            OSError: the file cannot be written.
        """
        with self._one, keeping(self._published, alone=False):
            if self._closed.is_set():
                return
            path = layout.releases_folder(self._published) / self.told.release
            if not (path / layout.MANIFEST).is_file():
                raise ReleaseNotFound(
                    f"there is no release {self.told.release!r} in {self._published} to lease{pointer.gone(self._published, self.told.release)}",
                    "open the one that is served now",
                )
            expires_at = max(self.told.expires_at, self._clock() + dt.timedelta(seconds=self._seconds))
            told = Leased(**{**vars(self.told), "expires_at": expires_at})
            durable.replace(_path(self._published, told.id), _to_bytes(told))
            self.told = told
            self.problem = ""

    def close(self) -> None:
        """Give it back; a second time nothing happens."""
        if self._closed.is_set() or os.getpid() != self.told.pid:
            return
        with self._one:
            self._closed.set()
            with contextlib.suppress(OSError):  # a lease that cannot be removed runs out by itself
                _path(self._published, self.told.id).unlink(missing_ok=True)

    @property
    def is_held(self) -> bool:
        """Whether the release is safe now: not given back, renewed in time, and no renewal has found it gone."""
        return not self._closed.is_set() and self.told.is_live(self._clock())

    def _keep_renewing(self) -> None:
        while not self._closed.wait(self._seconds / _RENEWALS):
            try:
                self.renew()
            except (OSError, ReleaseError) as error:  # tried again until the lease is given back: a full disk may empty
                self.problem = str(error)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"told": self.told, "problem": self.problem, "_published": self._published, "_seconds": self._seconds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _closed=threading.Event(), _one=threading.Lock(), _clock=_now)
        self._closed.set()


def folder(published: Path) -> Path:
    return published / "leases"


def published_of(release: Path) -> Path:
    """The published folder that a release's folder lies in. Raises ReleaseError for a release that was put elsewhere."""
    if release.parent.name != "releases":
        raise ReleaseError(
            f"{release} lies in no published folder, so that nothing collects it and no lease is needed", "read it without a lease"
        )
    return release.parents[1]


def read_all(published: Path) -> list[Leased]:
    """Every lease, live or run out, by the time it was taken.

    Raises:
        ReleaseCorrupt: a file is not what a reader writes, so nobody can say which release it protects.
    """
    found = []
    for path in sorted(folder(published).glob("[!.]*.json")):
        with contextlib.suppress(FileNotFoundError):  # given back meanwhile
            found.append(_read(path))
    return sorted(found, key=lambda one: (one.taken_at, one.id))


def live(published: Path, at: dt.datetime) -> dict[str, list[Leased]]:
    """Release → its leases that have not run out. Raises as `read_all`."""
    by_release: dict[str, list[Leased]] = {}
    for one in read_all(published):
        if one.is_live(at):
            by_release.setdefault(one.release, []).append(one)
    return by_release


def drop_run_out(published: Path, at: dt.datetime) -> int:
    """Remove the files of readers that died; returns how many. The caller holds `keeping(alone=True)`."""
    gone = [one for one in read_all(published) if not one.is_live(at)]
    for one in gone:
        _path(published, one.id).unlink(missing_ok=True)
    for left in folder(published).glob(".*.partial"):  # of a reader that was killed: we are alone, so nobody writes it
        left.unlink(missing_ok=True)
    return len(gone)


@contextlib.contextmanager
def keeping(published: Path, *, alone: bool) -> Iterator[None]:
    """Hold the lock over leases and pins. Short work only: readers wait for it.

    Args:
        alone: True for who removes releases or changes pins; False for readers, who may take it together.
    """
    if not published.is_dir():
        raise ReleaseNotFound(f"there is no folder {published}", "name a published folder, $KAR_HOME/<scenario>/published")
    folder(published).mkdir(exist_ok=True)
    with (folder(published) / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


def _read(path: Path) -> Leased:
    data = path.read_bytes()
    try:
        told = json.loads(data)
        taken_at, expires_at = (manifest.in_utc(manifest.from_text(told[name])) for name in ("taken_at", "expires_at"))
        return Leased(path.stem, str(told["release"]), str(told["reader"]), int(told["pid"]), str(told["host"]), taken_at, expires_at)
    except (ValueError, KeyError, TypeError, ReleaseError) as error:
        what = "is empty" if not data.strip() else f"cannot be read: {error!r}"
        raise ReleaseCorrupt(
            f"the lease {path} {what}; nobody can say which release it protects, so none is removed",
            "see that no reader is running that was started before it was written, then remove the file",
        ) from error


def _path(published: Path, lease: str) -> Path:
    return folder(published) / f"{lease}.json"


def _to_bytes(told: Leased) -> bytes:
    value = vars(told) | {"taken_at": manifest.to_text(told.taken_at), "expires_at": manifest.to_text(told.expires_at)}
    return (json.dumps({name: text for name, text in value.items() if name != "id"}, ensure_ascii=False) + "\n").encode()


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
