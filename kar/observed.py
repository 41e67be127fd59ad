"""What a monitoring system is told of a scenario: gauges over the newest partitions and the release that is served.

Read anew at every scrape from manifests and small tables; nothing is kept, so nothing can be stale. `GAUGES` names them all,
`observability/kar-dashboard.json` shows them and `observability/kar-alerts.yml` wakes somebody: tests hold all three together.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import duckdb
import pyarrow.parquet as pq
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from kar import flow
from kar.llm.budget import Stop
from kar.llm.ledger import sizes
from kar.release import ReleaseError, list_releases
from kar.settings import LLMSettings, Settings
from kar.store import Home, Manifest, Partition, trainings

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "kar_stage_made_timestamp_seconds": ("when the newest partition of a stage was made, unix time", ("stage",)),
    "kar_stage_partition_timestamp_seconds": ("end of the date (UTC) of the newest partition of a stage, unix time", ("stage",)),
    "kar_stage_duration_seconds": ("how long the newest partition of a stage took", ("stage",)),
    "kar_table_rows": ("rows of the newest partition's tables", ("stage", "table")),
    "kar_rejected_rows": ("rows that the newest partition of a stage left out", ("stage", "reason")),
    "kar_coverage_share": ("share of the subjects of a view that have knowledge, newest night", ("view",)),
    "kar_knowledge_age_days": ("age of the knowledge of a view at the newest partition's end", ("view", "quantile")),
    "kar_requests": ("requests of the newest night: sent, and answered by the ledger", ("from",)),
    "kar_tokens": ("tokens of the newest night", ("kind",)),
    "kar_cost_usd": ("what the newest night cost, at the prices in the settings", ()),
    "kar_asking_seconds": ("how long the newest night asked the language model", ()),
    "kar_stopped_by": ("1: what ended the newest night's asking; none: all that was planned was asked", ("reason",)),
    "kar_deadline_seconds": ("how long a night may ask, as the settings say; not said where there is no deadline", ()),
    "kar_budget_tokens": ("tokens that a night may spend, as the settings say; not said where there is no budget", ()),
    "kar_budget_usd": ("money that a night may spend, as the settings say; not said where there is no budget", ()),
    "kar_window_requests": ("most requests that were allowed in flight, at the night's last look", ("endpoint",)),
    "kar_uplift_auc": ("knowledge minus another arm on the test examples of the newest training", ("backbone", "base", "arm", "bound")),
    "kar_gate_passed": ("0: a check of the gate of the newest release, or training, said no", ("gate", "check")),
    "kar_training_held_back": ("1: the newest training is not used", ()),
    "kar_release_held_back": ("1: the newest night's release is not served, because its gate said no", ()),
    "kar_release_info": ("1: the release that is served", ("release", "space_id")),
    "kar_release_published_timestamp_seconds": ("when the release that is served was published, unix time", ()),
    "kar_release_data_cutoff_timestamp_seconds": ("newest interaction that its knowledge has seen, unix time", ()),
    "kar_release_covered_share": ("share of the rows of the served release with knowledge", ("side",)),
    "kar_releases": ("releases that lie on disk", ()),
    "kar_backfill_published_timestamp_seconds": (
        "when the newest of the releases that were made after their date was published, unix time",
        (),
    ),
    "kar_ledger_rows": ("answers that the ledger keeps: in shards that are written, in parts that are compacted", ("where",)),
    "kar_ledger_bytes": ("what they take on disk", ("where",)),
}
"""Name → what it says, and its labels besides `scenario`."""
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "lost_tokens")
_QUANTILES = (0.5, 0.95, 1.0)


@dataclass
class Said:
    """The gauges being filled."""

    scenario: str
    families: dict[str, GaugeMetricFamily] = field(default_factory=dict)

    def __call__(self, name: str, value: float | None, **labels: str) -> None:
        """One value; None and NaN are not said."""
        if value is None or math.isnan(value):
            return
        what, names = GAUGES[name]
        if name not in self.families:
            self.families[name] = GaugeMetricFamily(name, what, labels=["scenario", *names])
        self.families[name].add_metric([self.scenario, *(labels[label] for label in names)], value)


class Observed(Collector):
    """A scenario as a collector of prometheus_client's."""

    def __init__(self, settings: Settings, home: Home) -> None:
        self.settings, self.home = settings, home

    def collect(self) -> Iterable[GaugeMetricFamily]:
        said = Said(self.settings.scenario.name)
        newest = {stage.name: found[-1] for stage in flow.EVERY if (found := self.home.partitions(stage.name))}
        for name, partition in newest.items():
            _stage(said, name, partition)
        if "knowledge" in newest:
            _knowledge(said, newest["knowledge"])
        _limits(said, self.settings.llm)
        if "adaptor" in newest:
            _uplift(said, newest["adaptor"])
            _training(said, newest["adaptor"])
        _release(said, self.home, newest.get("features"))
        _ledger(said, self.home)
        return said.families.values()


def registry(settings: Settings, home: Home) -> CollectorRegistry:
    """For prometheus_client's exposition: `generate_latest`, `write_to_textfile`, `start_http_server`."""
    made = CollectorRegistry()
    made.register(Observed(settings, home))
    return made


def _stage(said: Said, name: str, partition: Partition) -> None:
    made = Manifest.read(partition.manifest_path)
    end = dt.datetime.combine(partition.date + dt.timedelta(days=1), dt.time(), dt.UTC)
    said("kar_stage_partition_timestamp_seconds", end.timestamp(), stage=name)
    said("kar_stage_duration_seconds", made.seconds, stage=name)
    if made.made_at:
        said("kar_stage_made_timestamp_seconds", dt.datetime.fromisoformat(made.made_at).timestamp(), stage=name)
    for table, figures in made.tables.items():
        said("kar_table_rows", figures["rows"], stage=name, table=table)
    for reason, count in made.rejected.items():
        said("kar_rejected_rows", count, stage=name, reason=reason)


def _knowledge(said: Said, partition: Partition) -> None:
    figures = Manifest.read(partition.manifest_path).figures
    for view, share in figures.get("coverage", {}).items():
        said("kar_coverage_share", share, view=view)
    said("kar_requests", figures.get("calls", 0), **{"from": "server"})
    said("kar_requests", figures.get("from_ledger", 0), **{"from": "ledger"})
    for name in _TOKENS:
        said("kar_tokens", figures.get(name, 0), kind=name.removesuffix("_tokens"))
    said("kar_cost_usd", figures.get("usd", 0.0))
    said("kar_asking_seconds", figures.get("seconds_asking"))
    for reason in get_args(Stop):
        said("kar_stopped_by", reason == figures.get("stopped_by", "none"), reason=reason)
    for row in _ages(partition):
        said("kar_knowledge_age_days", row[1], view=row[0], quantile=str(row[2]))
    for endpoint, window in _windows(partition.table("pace")).items():
        said("kar_window_requests", window, endpoint=str(endpoint))


def _ages(partition: Partition) -> Iterator[tuple[str, float, float]]:
    """View, age in days, quantile."""
    end = dt.datetime.combine(partition.date + dt.timedelta(days=1), dt.time(), dt.UTC)
    query = """
        select view, quantile_cont(greatest(epoch(?::timestamptz) - epoch(asked_at), 0) / 86400, ?::double[]) from read_parquet(?) group by view
    """
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        rows = connection.execute(query, [end, list(_QUANTILES), str(partition.table("knowledge"))]).fetchall()
    for view, ages in sorted(rows):
        yield from ((view, age, quantile) for age, quantile in zip(ages, _QUANTILES, strict=True))


def _windows(path: Path) -> dict[int, float]:
    """The last window of each server; none on a night without a question."""
    table = pq.read_table(path, columns=["endpoint", "second", "window"]).sort_by("second")
    return dict(zip(table["endpoint"].to_pylist(), table["window"].to_pylist(), strict=True))


def _uplift(said: Said, partition: Partition) -> None:
    wanted = [("arm_a", "=", "knowledge"), ("slice", "=", "all"), ("metric", "=", "auc")]
    for row in pq.read_table(partition.table("comparison"), filters=wanted).to_pylist():
        for bound in ("difference", "low", "high"):
            said("kar_uplift_auc", row[bound], backbone=row["backbone"], base=row["base"], arm=row["arm_b"], bound=bound)


def _limits(said: Said, settings: LLMSettings) -> None:
    said("kar_deadline_seconds", settings.deadline_s)
    said("kar_budget_tokens", settings.token_budget)
    said("kar_budget_usd", settings.usd_budget)


def _training(said: Said, partition: Partition) -> None:
    _gate(said, "training", Manifest.read(partition.manifest_path))
    said("kar_training_held_back", trainings.is_held_back(partition))


def _gate(said: Said, gate: str, made: Manifest) -> None:
    for verdict in made.gate:
        said("kar_gate_passed", verdict["is_passed"], gate=gate, check=verdict["check"])


def _ledger(said: Said, home: Home) -> None:
    for where, size in sizes(home.ledger).items():
        said("kar_ledger_rows", size.rows, where=where)
        said("kar_ledger_bytes", size.bytes, where=where)


def _release(said: Said, home: Home, newest: Partition | None) -> None:
    """The served release, and whether the newest night's would be if its gate had let it."""
    night = None if newest is None else Manifest.read(newest.manifest_path)
    if night is not None:
        _gate(said, "release", night)
    try:
        listed = list_releases(home.releases_at)
    except ReleaseError:
        return  # a damaged or an empty folder: no release is said, which is what an alarm waits for
    if newest is not None and night is not None:
        # a release id begins with its date; somebody may have promoted it, or a later one, despite the gate
        is_served = any(release.is_current and release.id[:10] >= newest.date.isoformat() for release in listed)
        said("kar_release_held_back", bool(night.failed_checks) and not is_served)
    late = [release.manifest["published_at"] for release in listed if release.manifest and release.manifest["is_reconstructed"]]
    if late:
        said("kar_backfill_published_timestamp_seconds", dt.datetime.fromisoformat(max(late)).timestamp())
    said("kar_releases", len(listed))
    for release in listed:
        if not release.is_current or release.manifest is None:
            continue
        manifest: dict[str, Any] = release.manifest
        said("kar_release_info", 1, release=release.id, space_id=manifest["space_id"])
        said("kar_release_published_timestamp_seconds", dt.datetime.fromisoformat(manifest["published_at"]).timestamp())
        if cutoff := manifest["data_cutoff"]:
            said("kar_release_data_cutoff_timestamp_seconds", dt.datetime.fromisoformat(cutoff).timestamp())
        for side in ("user", "item"):
            said("kar_release_covered_share", manifest["tables"][f"{side}_knowledge"]["covered_share"], side=side)
