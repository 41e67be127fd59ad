"""`kar metrics`"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from kar.cli.options import Overrides, Root, SettingsPath, open_scenario, say


def metrics(
    settings: SettingsPath,
    out: Annotated[Path | None, typer.Option(help="Write a text file (for node_exporter's textfile collector), in one step.")] = None,
    port: Annotated[int | None, typer.Option(help="Serve /metrics until Ctrl-C.", show_default="print once")] = None,
    host: Annotated[str, typer.Option(help="Where to serve.")] = "127.0.0.1",
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Say what a monitoring system wants to know: coverage, age, tokens, cost, rejected rows, window, uplift, the release. Prometheus' format."""
    from prometheus_client import generate_latest, start_http_server, write_to_textfile

    from kar.errors import SettingsError
    from kar.observed import registry

    if out is not None and port is not None:
        raise typer.BadParameter("say --out or --port, not both", param_hint="--out")
    made = registry(*open_scenario(settings, override, home))
    if out is not None:
        try:
            write_to_textfile(str(out), made)
        except OSError as error:
            raise SettingsError(f"the metrics cannot be written to {out}: {error}", "name a file in a folder that exists") from error
    elif port is not None:
        try:
            server, _ = start_http_server(port, host, made)
        except OSError as error:
            raise SettingsError(f"nothing can be served on {host}:{port}: {error}", "name another --port") from error
        say(f"metrics on http://{host}:{port}/metrics until Ctrl-C")
        try:
            while True:
                time.sleep(3600)
        finally:
            server.shutdown()
    else:
        say(generate_latest(made).decode().rstrip())
