"""The listening: uvicorn, on loopback unless another host is named."""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from kar.errors import BrowseError
from kar.settings import Settings
from kar.store import Home


def serve(
    settings: Settings,
    home: Home,
    host: str,
    port: int,
    allow_hosts: tuple[str, ...],
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Serve the pages until Ctrl-C or SIGTERM.

    Args:
        port: 0 takes a free one.
        allow_hosts: names other than loopback's by which the page may be asked for.
        say: told the address once it is listened on.
        warn: told if others than this machine can reach it.

    Raises:
        BrowseError: a library is missing, or the address cannot be listened on.
    """
    try:
        import uvicorn

        from kar.browse.app import application
        from kar.browse.guard import Hosts, is_loopback
    except ImportError as error:
        raise BrowseError(f"kar browse needs {error.name}, which is not installed", "install it: pip install 'kar[browse]'") from error
    config = uvicorn.Config(
        application(settings, home, Hosts(host, allow_hosts)),
        host=host,
        port=port,
        log_level="critical",  # a port in use is told by us
        access_log=False,  # who looks at whom is nobody's business
        server_header=False,
        limit_concurrency=64,
        timeout_graceful_shutdown=2,
        ws="none",
        lifespan="off",
    )
    try:
        listening = config.bind_socket()
    except SystemExit as error:
        raise BrowseError(f"cannot listen on {host}, port {port}: it is in use, or not ours to take", "choose another: --port 0") from error
    listening.listen(128)  # whoever asks as soon as the address is told waits until the pages are there
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    if not is_loopback(host):
        warn(
            f"listening on {host}: whoever reaches it can read every user's history and knowledge; there is no password. "
            "Prefer loopback and a tunnel (ssh -L)"
        )
    server = uvicorn.Server(config)
    # from before the address is told: a KeyboardInterrupt while uvicorn is still being set up can come to nothing
    with contextlib.closing(listening), _ending(server.handle_exit):
        written = f"[{host}]" if ":" in host else host
        say(f"http://{written}:{listening.getsockname()[1]}/  (Ctrl-C stops it)")
        server.run(sockets=[listening])


@contextlib.contextmanager
def _ending(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM call this, as the server itself does while it runs."""
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
