"""`kar browse`"""

from __future__ import annotations

from typing import Annotated

import typer

from kar.cli.options import Overrides, Root, SettingsPath, open_scenario, say


def browse(
    settings: SettingsPath,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Loopback, unless you mean it: the pages show every user's history, without a password.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name by which the page may be asked for, beside loopback and addresses; may be given several times.",
            show_default="none",
        ),
    ] = None,
    override: Overrides = None,
    home: Root = None,
) -> None:
    """Serve a local, read-only web page over nights and releases: search a user or item, read what is known of them and why."""
    from kar import log
    from kar.browse.server import serve

    loaded, place = open_scenario(settings, override, home)
    serve(loaded, place, host, port, tuple(allow_host or ()), say, log.warning)
