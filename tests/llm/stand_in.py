"""A cheap stand-in for `transformers serve`: healthy at once, with a child process of its own."""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

from kar.settings import LLMSettings
from kar.store import Home

_SERVER = """
import http.server, json, os, signal, subprocess, sys
port, mode = int(sys.argv[1]), sys.argv[2]
if mode == "broken":
    print("loading"); print("the weights are made of cheese"); sys.exit(3)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = {"pid": os.getpid(), "child": child.pid, "cwd": os.getcwd(), "offline": os.environ.get("HF_HUB_OFFLINE")}
        body = json.dumps(said).encode()
        self.send_response(503 if mode == "sick" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""


def model(home: Home) -> None:
    """An unpacked model's folder, as far as anybody looks."""
    folder = home.models / "stand-in"
    folder.mkdir(parents=True)
    (folder / "kar-model.json").write_text(json.dumps({"name": "stand-in", "revision": "gguf-sha256:cafe"}))


def command(settings: LLMSettings, port: int, mode: str = "well") -> list[str]:
    return [sys.executable, "-c", _SERVER, str(port), mode]


def stubborn(settings: LLMSettings, port: int) -> list[str]:
    return command(settings, port, "stubborn")


def broken(settings: LLMSettings, port: int) -> list[str]:
    return command(settings, port, "broken")


def sick(settings: LLMSettings, port: int) -> list[str]:
    return command(settings, port, "sick")


def ask(url: str) -> dict[str, Any]:
    """What the server says of itself."""
    with urllib.request.urlopen(f"{url}/anything", timeout=10) as response:
        found: dict[str, Any] = json.load(response)
        return found
