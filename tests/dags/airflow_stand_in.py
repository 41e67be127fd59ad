"""Stands in for the `airflow` command, as dags/tools/backfill.py speaks to it: notes each call, and lets runs end one look after another.

Folder AIRFLOW_STAND_IN holds `calls.jsonl` and `state.json`: {"alive": bool, "paused": bool, "runs": {run id: states still to come},
"new": {date: states still to come}}. Each `dags list-runs` takes one step; a run's last state stays.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> int:
    folder, words = Path(os.environ["AIRFLOW_STAND_IN"]), sys.argv[1:]
    with (folder / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps(["airflow", *words]) + "\n")
    state = json.loads((folder / "state.json").read_text())
    print("[2026-11-22T01:00:00+0000] a warning that Airflow prints first")
    if words[:2] == ["jobs", "check"]:
        return 0 if state["alive"] else 1
    if words[:2] == ["dags", "list"]:
        print(json.dumps([{"dag_id": dag_id, "is_paused": str(paused)} for dag_id, paused in state["dags"].items()]))
    elif words[:2] == ["dags", "list-runs"]:
        rows = [{"run_id": run_id, "state": states[0]} for run_id, states in state["runs"].items()]
        print(json.dumps(rows, indent=4) if rows else "No data found")
        state["runs"] = {run_id: states[1:] or states for run_id, states in state["runs"].items()}
    elif words[:2] == ["backfill", "create"]:
        if state.get("refuses"):
            print(state["refuses"], file=sys.stderr)
            return 1
        number = len(state["runs"])
        state["runs"] |= {f"backfill__{date}T01:00:00+00:00__{date}__{number}": states for date, states in state["new"].items()}
    (folder / "state.json").write_text(json.dumps(state))
    return 0


if __name__ == "__main__":
    sys.exit(main())
