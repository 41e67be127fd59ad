"""Pictures of a running Airflow for the README: a DAG's grid, its graph, the asset that it emits.

    python dags/tools/screenshots.py [--home FOLDER] [--url URL] [--out docs/images]

Signs in with the password that `make airflow` keeps in its home, and looks with the system's Chromium through playwright (both are
among the tests' requirements). Run it after some nights.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

DAG, ASSET = "kar_nightly", "kar_release"
WIDTH, HEIGHT = 1280, 800
_GRID_WIDTH, _GRAPH_WIDTH = 480, 1080  # what is right of these says nothing more, and costs bytes
_SETTLE_MS = 2500  # the graph is laid out, then animated into its place


def main(arguments: list[str] | None = None) -> int:
    """Take them all; each path and size is printed."""
    parser = argparse.ArgumentParser(description="Pictures of a running Airflow.")
    kar_home = Path(os.environ.get("KAR_HOME") or ".kar")
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("AIRFLOW_HOME") or kar_home / "_airflow"), help="AIRFLOW_HOME")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parents[2] / "docs" / "images")
    given = parser.parse_args(arguments)
    passwords = json.loads((given.home / "simple_auth_manager_passwords.json.generated").read_text())
    token = _post(f"{given.url}/auth/token", {"username": "admin", "password": passwords["admin"]})["access_token"]
    take(given.url, token, given.out)
    return 0


def take(url: str, token: str, out: Path) -> None:
    """Grid, graph and asset, as `airflow-grid.png`, `airflow-graph.png`, `airflow-asset.png`."""
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        context.add_cookies([{"name": "_token", "value": token, "url": url}])
        page = context.new_page()
        for name, path, kept in (
            ("grid", f"/dags/{DAG}", {"default_dag_view": "grid"}),
            (
                "graph",
                f"/dags/{DAG}/runs/{_run(url, token)}",
                {"default_dag_view": "graph", f"direction-{DAG}": "DOWN", f"{DAG}/open-groups": ["llm"]},
            ),
            ("asset", f"/assets/{_asset(url, token)}", {}),
        ):
            page.goto(url)
            for key, value in kept.items():
                page.evaluate("([key, value]) => localStorage.setItem(key, JSON.stringify(value))", [key, value])
            page.goto(url + path)
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(_SETTLE_MS)
            if name == "grid":  # room for more nights
                _drag(page, from_x=315, to_x=_GRID_WIDTH)
            target = out / f"airflow-{name}.png"
            page.screenshot(path=target, clip={"x": 0, "y": 0, "width": _GRAPH_WIDTH if name == "graph" else WIDTH, "height": HEIGHT})
            print(f"{target}  {target.stat().st_size // 1024} KB")
        browser.close()


def _drag(page: Any, *, from_x: int, to_x: int) -> None:
    """Move the divider between the two halves of the page."""
    page.mouse.move(from_x, HEIGHT - 100)
    page.mouse.down()
    page.mouse.move(to_x, HEIGHT - 100, steps=5)
    page.mouse.up()
    page.mouse.move(WIDTH - 20, HEIGHT - 20)
    page.wait_for_timeout(_SETTLE_MS)


def _run(url: str, token: str) -> str:
    """The newest run that was a success, else the newest."""
    runs = _get(f"{url}/api/v2/dags/{DAG}/dagRuns?order_by=-id&limit=50", token)["dag_runs"]
    good = [run for run in runs if run["state"] == "success" and run["run_type"] == "scheduled"]
    return urllib.parse.quote(str((good or runs)[0]["dag_run_id"]), safe="")


def _asset(url: str, token: str) -> int:
    assets = _get(f"{url}/api/v2/assets?name_pattern={ASSET}", token)["assets"]
    return int(assets[0]["id"])


def _get(url: str, token: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


def _post(url: str, body: dict[str, str]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)


if __name__ == "__main__":
    sys.exit(main())
