"""The assets that the DAGs emit and listen to."""

from __future__ import annotations

from airflow.sdk import Asset

RELEASE = Asset(
    name="kar_release",
    uri="kar://release",
    group="kar",
    extra={"holds": "a release that is served: its id, path and date are in the event's extra, its date is the partition key"},
)
