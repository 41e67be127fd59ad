#!/usr/bin/env python3
"""Stands in for `python -m kar`: a real program that notes its arguments and answers as kar's command line does.

Started as `stand_in.py -m kar …`. Folder KAR_STAND_IN holds `calls.jsonl` (what it was asked to do) and may hold `rules.json`:
for a command, words or a stage's name, what it says and how it ends: {"promote": {"exit": 3, "stderr": "kar: held back"}}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    folder = Path(os.environ["KAR_STAND_IN"])
    arguments = sys.argv[3:] if sys.argv[1:3] == ["-m", "kar"] else sys.argv[1:]
    seen = {name: os.environ[name] for name in ("KAR_LLM_API_KEY", "KAR_SETTINGS", "KAR_HOME", "KAR_SET") if name in os.environ}
    airflow = [name for name in os.environ if name.startswith("AIRFLOW_") and not name.startswith("AIRFLOW_CTX_")]
    with (folder / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps({"arguments": arguments, "environment": seen, "airflow": airflow}) + "\n")
    name = arguments[1] if arguments[0] in ("run", "release", "training") else arguments[0]
    rules = folder / "rules.json"
    rule = json.loads(rules.read_text()).get(name, {}) if rules.exists() else {}
    print(f"log of {name}", file=sys.stderr, flush=True)
    if "count_to" in rule:
        _count(folder / "counted", rule["count_to"])
    if "stderr" in rule:
        print(rule["stderr"], file=sys.stderr, flush=True)
    date = arguments[arguments.index("--date") + 1] if "--date" in arguments else ""
    if "exit" not in rule or rule["exit"] == 0:
        print(f"{name} is done", flush=True)
        if "--json" in arguments:
            print(json.dumps({**_answer(name, date), **rule.get("json", {})}), flush=True)
    return int(rule.get("exit", 0))


def _answer(name: str, date: str) -> dict[str, object]:
    if name == "promote":
        return {
            "release_id": f"{date}-abc",
            "path": f"published/releases/{date}-abc",
            "date": date,
            "is_promoted": True,
            "served": f"{date}-abc",
        }
    if name == "due":
        return {"due": False, "training": "2026-11-17-a", "why": "not due: trained 2 days ago"}
    if name == "ask":
        return {"calls": 5, "stopped_by": ""}
    figures: dict[str, object] = {"requests": 12} if name == "prompts" else {}
    return {
        "stage": name,
        "date": date,
        "path": f"{name}/date={date}",
        "rows": {},
        "rejected": {},
        "seconds": 0.1,
        "warnings": 0,
        "figures": figures,
    }


def _count(path: Path, most: int) -> None:
    """Write a number every 20 ms, as something that must not go on when it is orphaned."""
    for number in range(most):
        path.write_text(str(number))
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
