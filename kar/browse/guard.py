"""Who may ask, and what every answer says to the browser.

Pages that a browser can reach on loopback can be reached by any web page that it shows, unless:
    * the Host header names this machine (a name that an attacker points at 127.0.0.1 is not one of ours: DNS rebinding);
    * nothing but GET and HEAD is answered, and no other origin may read or frame an answer;
    * no script runs, and nothing is loaded from elsewhere, whatever a title holds (Content-Security-Policy).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own and reaches no other."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


@dataclass(frozen=True)
class Hosts:
    """Which Host headers are answered.

    Args:
        bound: the host that is listened on. Loopback: only loopback names and addresses are answered. Else also addresses
            (an address cannot be rebound) and the host itself.
        named: further names, told by the user.
    """

    bound: str = "127.0.0.1"
    named: tuple[str, ...] = ()

    def allow(self, header: str) -> bool:
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        host = match.group(1).strip("[]").lower()
        if is_loopback(host) or host in {name.lower() for name in (self.bound, *self.named)}:
            return True
        return not is_loopback(self.bound) and _address(host) is not None


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(given) != 1 or not self._hosts.allow(given[0]):
            refusal = PlainTextResponse("This page answers to its own host only; see kar browse --help, --allow-host.\n", 421)
        elif scope["method"] not in ("GET", "HEAD"):
            refusal = PlainTextResponse("This page can only be read.\n", 405, {"Allow": "GET, HEAD"})
        else:
            await self._app(scope, receive, send_guarded)
            return
        await refusal(scope, receive, send_guarded)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
