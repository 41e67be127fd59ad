"""Run kar_nightly (or a case's `dag`) in this interpreter as `airflow dags test` does, once for each case; print what became of it.

    python nights.py CASES.json

A case: {"rules": …, "conf": …, "date": logical date or null, "dag": …}, each of them may be missing. Run by test_night_runs.py.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag


def main(cases: dict[str, dict[str, Any]]) -> None:
    folder = Path(os.environ["KAR_STAND_IN"])
    dags = DagBag(str(Path(__file__).parents[2] / "dags")).dags
    for name, case in cases.items():
        dag = dags[case.get("dag", "kar_nightly")]
        (folder / "rules.json").write_text(json.dumps(case.get("rules", {})))
        (folder / "calls.jsonl").write_text("")
        (folder / "told.txt").write_text("")
        logical = dt.datetime.fromisoformat(case["date"]).replace(tzinfo=dt.UTC) if case.get("date") else None
        run = dag.test(logical_date=logical, run_conf=case.get("conf"))
        said = {
            "state": str(run.state.value if hasattr(run.state, "value") else run.state),
            "tasks": {
                f"{ti.task_id}[{ti.map_index}]" if ti.map_index >= 0 else ti.task_id: str(ti.state) for ti in run.get_task_instances()
            },
            "tries": {ti.task_id: ti.try_number for ti in run.get_task_instances()},
            "calls": [json.loads(line)["arguments"] for line in (folder / "calls.jsonl").read_text().splitlines()],
            "told": (folder / "told.txt").read_text(),
            "events": _events(run.run_id),
        }
        print("NIGHT" + json.dumps({"name": name, **said}), flush=True)


def _events(run_id: str) -> list[dict[str, Any]]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == run_id)).all()
        return [{"extra": event.extra, "partition_key": event.partition_key} for event in events]


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
