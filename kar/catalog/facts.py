"""Small tables that the catalogue takes from manifests, CURRENT and the settings. None holds a text of anyone."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from kar import flow
from kar.catalog.library import views
from kar.errors import ReleaseCorrupt, ReleaseNotFound
from kar.release import layout, list_releases, pointer, remote
from kar.release.manifest import from_text
from kar.settings import Settings
from kar.store import Home, Manifest

_TEXT, _COUNT, _SHARE, _TIME, _FLAG = pa.string(), pa.int64(), pa.float64(), layout.TIME, pa.bool_()
_RELEASE = pa.schema(
    [
        *((name, _TEXT) for name in ("release_id", "path")),
        ("date", pa.date32()),
        *((name, _FLAG) for name in ("is_current", "is_reconstructed")),
        *((name, _TIME) for name in ("published_at", "served_since", "data_cutoff")),
        *((name, _TEXT) for name in ("space_id", "encoder_id", "adaptor_sha", "backbone", "parent", "code_version")),
        *((name, _COUNT) for name in ("user_count", "item_count")),
        *((f"{side}_{share}", _SHARE) for share in ("covered_share", "covered_active_share") for side in layout.SIDES),
        ("failed_checks", pa.list_(_TEXT)),
        *((name, _TEXT) for name in ("gate", "cost", "uplift", "templates", "models", "problem")),
    ]
)
_SERVED = pa.schema([("release_id", _TEXT), ("since", _TIME)])
_STAGE = pa.schema(
    [
        ("date", pa.date32()),
        ("stage", _TEXT),
        ("title", _TEXT),
        ("row_count", _COUNT),
        ("rejected_count", _COUNT),
        ("seconds", _SHARE),
        ("made_at", _TIME),
        ("warnings", pa.list_(_TEXT)),
    ]
)
_REJECTED = pa.schema([("date", pa.date32()), ("stage", _TEXT), ("reason", _TEXT), ("meaning", _TEXT), ("row_count", _COUNT)])
_PRICE = pa.schema([("place", _COUNT), ("pattern", _TEXT), ("prompt", _SHARE), ("cached", _SHARE), ("completion", _SHARE)])
_VIEW = pa.schema([("name", _TEXT), ("holds", _TEXT)])


def facts(settings: Settings, home: Home) -> dict[str, Callable[[], pa.Table]]:
    """How to make every small table, by its name in the schema `facts`: a statement that reads none need not read the manifests."""
    named = [{"name": view.name, "holds": view.what} for view in views().values()]
    return {
        "release": lambda: pa.Table.from_pylist(_releases(home), schema=_RELEASE),
        "served": lambda: pa.Table.from_pylist(_served(home), schema=_SERVED),
        "stage": lambda: pa.Table.from_pylist(_nights(home)[0], schema=_STAGE),
        "rejected": lambda: pa.Table.from_pylist(_nights(home)[1], schema=_REJECTED),
        "price": lambda: pa.Table.from_pylist(_prices(settings), schema=_PRICE),
        "view": lambda: pa.Table.from_pylist(named, schema=_VIEW),
    }


def _releases(home: Home) -> list[dict[str, Any]]:
    rows = []
    for entry in list_releases(home.releases_at):
        row: dict[str, Any] = {
            "release_id": entry.id,
            "path": f"{home.releases_at}/releases/{entry.id}",
            "is_current": entry.is_current,
            "served_since": entry.served_since,
            "problem": entry.problem,
        }
        rows.append(row | (_of_manifest(entry.manifest) if entry.manifest else {}))
    return rows


def _of_manifest(found: dict[str, Any]) -> dict[str, Any]:
    users, items = (found["tables"][layout.table_name(side)] for side in layout.SIDES)
    return {
        "date": dt.date.fromisoformat(found["date"]),
        "is_reconstructed": found["is_reconstructed"],
        "published_at": from_text(found["published_at"]),
        "data_cutoff": from_text(found["data_cutoff"]) if found["data_cutoff"] else None,
        **{name: found.get(name) for name in ("space_id", "encoder_id", "parent", "code_version")},
        "adaptor_sha": found["space"].get("adaptor_sha"),
        "backbone": found.get("adaptor", {}).get("backbone"),
        "user_count": users["rows"],
        "item_count": items["rows"],
        **{
            f"{side}_{share}": table.get(share)  # of active subjects: from format 3 on
            for share in ("covered_share", "covered_active_share")
            for side, table in (("user", users), ("item", items))
        },
        "failed_checks": [verdict["check"] for verdict in found.get("gate") or [] if not verdict["is_passed"]],
        **{name: json.dumps(found.get(name), ensure_ascii=False) for name in ("gate", "cost", "uplift", "templates", "models")},
    }


def _served(home: Home) -> list[dict[str, Any]]:
    try:
        current = remote.looked(home.releases_at, pointer.maybe_current)
    except (ReleaseCorrupt, ReleaseNotFound):
        return []
    return [{"release_id": entry.release, "since": entry.since} for entry in current.served] if current else []


def _nights(home: Home) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row per stage and night; one per stage, night and reason."""
    made, rejected = [], []
    for stage in (*flow.FLOW, *flow.ASIDE):
        for partition in home.partitions(stage.name):
            found = Manifest.read(partition.manifest_path)
            key = {"date": partition.date, "stage": stage.name}
            made.append(
                {
                    **key,
                    "title": stage.title,
                    "row_count": sum(table["rows"] for table in found.tables.values()),
                    "rejected_count": sum(found.rejected.values()),
                    "seconds": found.seconds,
                    "made_at": dt.datetime.fromisoformat(found.made_at) if found.made_at else None,
                    "warnings": found.warnings,
                }
            )
            for reason, count in sorted(found.rejected.items()):
                rejected.append({**key, "reason": reason, "meaning": stage.rejects.get(reason, ""), "row_count": count})
    return made, rejected


def _prices(settings: Settings) -> list[dict[str, Any]]:
    """US dollars per million tokens: the settings' patterns in order, then what the scenario's own model costs, for all others."""
    llm = settings.llm
    found = [*llm.prices.items(), ("*", llm.price())]
    return [
        {
            "place": place,
            "pattern": pattern,
            "prompt": p.prompt,
            "cached": p.prompt if p.cached is None else p.cached,
            "completion": p.completion,
        }
        for place, (pattern, p) in enumerate(found)
    ]
