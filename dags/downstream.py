"""How kar_downstream_example reads its events and runs the job: which releases, which examples, one process for each."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowFailException
from runner import KarOperator

JOB = Path(__file__).resolve().parents[1] / "examples" / "train_ctr.py"


def chosen(events: Iterable[Any], params: Mapping[str, Any]) -> list[dict[str, str]]:
    """The releases that a run is for, each {"release_id", "published", "date"}: those of its events, oldest event first, each once.

    Args:
        events: the asset events that started the run; their `extra` is what promotion said of its release.
        params: of a run that a person started: `release_id` and `published`.

    Raises:
        AirflowFailException: an event or a person names no release, or not where it lies. Another one is never read in its place.
    """
    found: dict[str, dict[str, str]] = {}
    for event in sorted(events, key=lambda event: event.timestamp):
        extra = event.extra or {}
        release, path = str(extra.get("release_id") or ""), str(extra.get("path") or "")
        if not release or not path:
            raise AirflowFailException(
                f"the event of {event.timestamp} from {event.source_dag_id or 'outside'} {event.source_run_id or ''} names no release; "
                "start this DAG with conf release_id and published instead"
            )
        found[release] = {"release_id": release, "published": published_of(path, release), "date": str(extra.get("date") or release[:10])}
    if not found:
        release, path = str(params.get("release_id") or ""), str(params.get("published") or "")
        if not release or not path:
            raise AirflowFailException("no event started this run, and no release is named: give conf release_id and published")
        found[release] = {"release_id": release, "published": published_of(path, release), "date": release[:10]}
    return list(found.values())


def published_of(path: str, release: str) -> str:
    """The published folder, of a path that may be that of the release in it."""
    return path.rstrip("/").removesuffix(f"/releases/{release}")


def examples_of(published: str, date: str, pattern: str = "") -> str:
    """The labelled examples for a release.

    Args:
        pattern: a file, with {date} where the partition belongs; empty: kar's own beside the published folder.

    Raises:
        AirflowFailException: there are none at or before the date.
    """
    if pattern:
        return pattern.replace("{date}", date)
    parts = [] if "://" in published else sorted(Path(published).parent.glob("examples/date=*/example.parquet"))
    usable = [part for part in parts if part.parent.name.removeprefix("date=") <= date]
    if not usable:
        raise AirflowFailException(f"no examples at or before {date} lie beside {published}: name yours by KAR_DOWNSTREAM_EXAMPLES")
    return str(usable[-1])


class TrainOnRelease(KarOperator):
    """Runs examples/train_ctr.py on one release, in the interpreter that kar is installed in; dies with the task.

    Args:
        release: of `chosen`.
    """

    template_fields = ("arguments", "variables", "release")
    program = (str(JOB),)

    def __init__(self, *, release: dict[str, str], python: str, **rest: Any) -> None:
        super().__init__(arguments=[], python=python, **rest)
        self.release = release

    def execute(self, context: Any) -> dict[str, Any]:
        """Train; the job's figures are in the log, and which release it read is the XCom."""
        read = dict(self.release)
        read["examples"] = examples_of(read["published"], read["date"], os.environ.get("KAR_DOWNSTREAM_EXAMPLES", ""))
        options = {
            "--release": read["published"],
            "--release-id": read["release_id"],
            "--examples": read["examples"],
            "--clock": "evidence",
        }
        options["--epochs"] = str(context["params"]["epochs"])
        self.arguments = [word for option in options.items() for word in option]
        super().execute(context)
        return read
