"""Parse every DAG file as Airflow's DAG processor does, in this interpreter, and print what came of it as JSON.

Run by test_integrity.py in a fresh interpreter: Airflow configures itself at import, and what parsing imported must be seen.
An audit hook notes what a file must not do while it is parsed; what it catches it tells with the file.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import BaseHook, Variable

_FORBIDDEN = {
    "socket.connect",
    "socket.getaddrinfo",
    "subprocess.Popen",
    "os.posix_spawn",
    "os.system",
    "sqlite3.connect",
    "urllib.Request",
}
did: list[str] = []
is_parsing = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not is_parsing:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+") and "pycache" not in str(arguments[0])
    if event in _FORBIDDEN or writes:
        did.append(f"{event} {arguments}")


def _refuse(what: str) -> Any:
    def refused(*arguments: Any, **_: Any) -> Any:
        did.append(f"{what} {arguments}")
        raise RuntimeError(f"{what} at parse")

    return refused


def _told(dag: Any) -> dict[str, Any]:
    return {
        "tasks": {
            task.task_id: {
                "next": sorted(task.downstream_task_ids),
                "owner": task.owner,
                "retries": task.retries,
                "timeout_s": task.execution_timeout.total_seconds() if task.execution_timeout else None,
                "pool": task.pool,
                "rule": str(getattr(task.trigger_rule, "value", task.trigger_rule)),
                "outlets": [asset.name for asset in task.outlets],
            }
            for task in dag.topological_sort()
        },
        "catchup": dag.catchup,
        "doc": dag.doc_md or "",
        "tags": sorted(dag.tags),
        "max_active_runs": dag.max_active_runs,
        "schedule": type(dag.timetable).__name__,
        "params": {name: dag.params.get_param(name).schema for name in dag.params},
    }


def main(folder: str, naughty: str) -> None:
    """`naughty` holds one file that does what none may: the proof that it would be seen."""
    Variable.get = BaseHook.get_connection = staticmethod(_refuse("Variable or Connection"))  # type: ignore[method-assign, assignment]
    sys.addaudithook(_hear)
    DagBag("/dev/null")  # what Airflow itself imports and does the first time is not the files'
    before = set(sys.modules)
    files, dags, errors = {}, {}, {}
    for path in sorted(Path(folder).glob("kar_*.py")):
        bag, files[path.name] = _parse(path)
        errors.update(bag.import_errors)
        dags.update({dag_id: {"file": path.name, **_told(dag)} for dag_id, dag in bag.dags.items()})
    imported = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
    seen = _parse(next(Path(naughty).glob("*.py")))[1]["did"]
    everything = DagBag(folder)
    errors.update(everything.import_errors)
    found = {"files": files, "dags": dags, "errors": errors, "imported": imported, "all": sorted(everything.dags), "naughty": seen}
    print("PARSED" + json.dumps(found, default=str))


def _parse(path: Path) -> tuple[Any, dict[str, Any]]:
    global is_parsing
    did.clear()
    started = time.monotonic()
    is_parsing = True
    bag = DagBag(str(path))
    is_parsing = False
    return bag, {"seconds": time.monotonic() - started, "did": list(did)}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
