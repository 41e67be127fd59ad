"""Addresses → pages. Every page is a GET without a side effect; what a page needs is read for it and let go."""

from __future__ import annotations

import datetime as dt
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from kar.browse import neighbours, pages, releases, search, subject, timeline
from kar.browse.guard import Guard, Hosts
from kar.browse.shelf import Shelf
from kar.browse.tables import Tables
from kar.errors import KarError, ReleaseError
from kar.release import Listed
from kar.release.layout import Side
from kar.settings import Settings
from kar.store import Home, Partition

_MOST_PAGES = 400
_SIDES: tuple[Side, ...] = ("item", "user")


class Site:
    """The pages over one scenario's home. One object serves all requests, from several threads."""

    def __init__(self, settings: Settings, home: Home) -> None:
        self.settings = settings
        self.home = home
        self.tables = Tables(home)
        self.shelf = Shelf(home)

    # ---- pages
    def start(self, request: Request) -> Response:
        (listed, problems), night = self.shelf.listed(), next(iter(self._nights()[::-1]), None)
        return self._page(
            "start.html",
            request,
            night=night,
            current=self.shelf.current(listed),
            release_count=len(listed),
            problems=problems,
            often=[(side, search.often(self.tables, night.date, side)) for side in _SIDES] if night else [],
        )

    def search(self, request: Request) -> Response:
        text = request.query_params.get("q", "")
        side = request.query_params.get("side", "")
        number = _whole(request.query_params.get("page", "1"), 1, _MOST_PAGES)
        sides = [s for s in _SIDES if side in ("", s)]
        place = number - 1 if len(sides) == 1 else 0
        found = [search.search(self.tables, night.date, one, text, place) for night in self._nights()[-1:] for one in sides]
        return self._page("search.html", request, found=found, number=number, per_page=search.PAGE, only=side if len(sides) == 1 else "")

    def user(self, request: Request) -> Response:
        return self._subject(request, "user")

    def item(self, request: Request) -> Response:
        return self._subject(request, "item")

    def _subject(self, request: Request, side: Side) -> Response:
        text, query = request.query_params.get("id", ""), request.query_params
        nights = self._nights()
        date = _date(query.get("date")) or (nights[-1].date if nights else None)
        if date is None:
            raise HTTPException(404, "No night has been made yet. Run: kar run all")
        found = subject.read(self.settings, self.tables, side, text, date)
        if found is None:
            raise HTTPException(404, f"The night of {date} knows no {side} of this id.")
        listed, wrong = self.shelf.listed()
        problems = [*found.problems, *wrong]
        knowledge = [p for p in self.home.partitions("knowledge") if p.date <= date]
        lines = timeline.timelines(self.tables, self.shelf, knowledge[-timeline.NIGHTS :], listed, side, text, found.id)
        near = self._near(listed, side, found, query.get("near", ""), query.get("release", ""), date)
        return self._page(
            "subject.html", request, s=found, date=date, newest=nights[-1].date if nights else date, timelines=lines, near=near,
            problems=problems, earlier=max(len(knowledge) - timeline.NIGHTS, 0),
        )  # fmt: skip

    def releases(self, request: Request) -> Response:
        listed, problems = self.shelf.listed()
        return self._page("releases.html", request, listed=listed, problems=problems)

    def release(self, request: Request) -> Response:
        listed, problems = self.shelf.listed()
        entry = next((entry for entry in listed if entry.id == request.path_params["release_id"]), None)
        if entry is None:
            raise HTTPException(404, " ".join(["There is no release of this id.", *problems]))
        if entry.manifest is None:
            raise HTTPException(500, f"This release cannot be read: {entry.problem}")
        return self._page("release.html", request, d=releases.detail(entry))

    # ---- what several pages need
    def _nights(self) -> list[Partition]:
        """The nights that are judged, oldest first; before there is one, those that have histories. One that runs just now is no night yet."""
        return self.home.partitions("knowledge") or self.home.partitions("histories")

    def _near(self, listed: list[Listed], side: Side, found: subject.Subject, view: str, release_id: str, date: dt.date) -> dict[str, Any]:
        """The neighbours in one view of one release: the asked ones, else the first view with a vector of the release served now."""
        entry = next((e for e in listed if e.id == release_id), None) or self.shelf.current(listed) or next(iter(listed), None)
        told: dict[str, Any] = {"release": entry, "views": [], "view": "", "rows": [], "why": "No release is published."}
        if entry is None:
            return told
        try:
            release = self.shelf.open(entry.id, listed)
            views = release.views(side)
            row = int(release.rows(side, [found.id])[0])
            known = [v for v in views if row >= 0 and not release.is_missing(side, v)[row]]
            chosen = view if view in views else next(iter(known), "")
            told |= {"views": views, "view": chosen, "known": known}
            near = neighbours.nearest(release, chosen, row) if chosen else None
            if near is None:
                return told | {"why": "The release does not hold this subject." if row < 0 else "The release has no knowledge of it here."}
            ids = release.ids(side).take([one.row for one in near]).to_pylist()
        except ReleaseError as error:
            return told | {"why": f"The release cannot be read: {error.what}"}
        titles = search.titles_of(self.tables, self.home.partition("histories", date), ids) if side == "item" else {}
        rows = [(str(one), titles.get(str(one), ""), place.cosine) for one, place in zip(ids, near, strict=True)]
        return told | {"rows": rows, "why": "" if rows else "Nobody else has such knowledge."}

    def _page(self, template: str, request: Request, status: int = 200, **values: Any) -> Response:
        text = request.query_params.get("q", "").strip()
        shared = {"scenario": self.settings.scenario.name, "q": text[:200], "path": request.url.path}
        return HTMLResponse(pages.page(template, **shared, **values), status)

    # ---- what went wrong
    def not_found(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        what = error.detail if isinstance(error, HTTPException) and error.detail != "Not Found" else "There is no such page."
        return self._page("error.html", request, status, what=what, do="", is_missing=status == 404)

    def named(self, request: Request, error: Exception) -> Response:
        what, do = (error.what, error.do) if isinstance(error, KarError) else ("Something went wrong here; the log says what.", "")
        return self._page("error.html", request, 500, what=what, do=do, is_missing=False)


def application(settings: Settings, home: Home, hosts: Hosts = Hosts()) -> ASGIApp:  # noqa: B008  (frozen)
    """The whole site as an ASGI application."""
    site = Site(settings, home)

    async def style(_: Request) -> Response:
        return Response(pages.style(), media_type="text/css", headers={"Cache-Control": "private, max-age=31536000, immutable"})

    async def icon(_: Request) -> Response:
        return Response(pages.ICON, media_type="image/svg+xml", headers={"Cache-Control": "private, max-age=86400"})

    app = Starlette(
        routes=[
            Route("/", site.start),
            Route("/search", site.search),
            Route("/user", site.user),
            Route("/item", site.item),
            Route("/releases", site.releases),
            Route("/releases/{release_id}", site.release),
            Route(f"/{pages.style_name()}", style),
            Route("/icon.svg", icon),
        ],
        exception_handlers={HTTPException: site.not_found, KarError: site.named, Exception: site.named},
    )
    return Guard(app, hosts)  # around everything, the page of an unforeseen error too


def _date(text: str | None) -> dt.date | None:
    if not text:
        return None
    try:
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise HTTPException(400, "A night is written YYYY-MM-DD.") from error


def _whole(text: str, low: int, high: int) -> int:
    """A whole number of the query, held between two ends; `low` for what is none."""
    return min(max(int(text), low), high) if text.isascii() and text.isdigit() and len(text) < 6 else low
