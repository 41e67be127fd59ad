"""OpenAI's Batch API through the openai package, its own retries switched off: ours go by status and exception type.

    wait and try again   429, 503 (Retry-After honoured), 408, other 5xx, time-out, connection lost
    refused              401, 403: the key; 404, 405, 501 at an upload: the server has no Batch API; other 4xx: as it says

A batch costs money, so its creation is never repeated blindly: every batch carries our own id as metadata, and before a
second try the provider's list is searched for it.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeVar
from urllib.parse import urlsplit

from kar.errors import ServerRefused, ServerUnreachable, SettingsError, StageError
from kar.llm.outcome import retry_after_s
from kar.llm.secret import blot_file, text_without
from kar.settings import LLMSettings

if TYPE_CHECKING:
    import openai
    from openai.types import FileObject

T = TypeVar("T")
OVER = frozenset({"completed", "failed", "expired", "cancelled"})
"""A batch in one of these states does not change any more."""

_ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
_CLOCK_SKEW = dt.timedelta(hours=1)
_METADATA = "kar_batch"
_UNCHECKED = ("pending", "running")  # Azure looks at a file first, and starts no batch before that
_LONGEST_CHECK_S = 300.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST_PAUSE_S = 30.0
_SHOWN_CHARS = 300


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch as the provider describes it.

    Args:
        status: validating · failed · in_progress · finalizing · completed · expired · cancelling · cancelled.
        completed, failed: requests so far.
        detail: why the provider refused the file; empty if it did not.
    """

    id: str
    status: str
    output_file_id: str
    error_file_id: str
    completed: int
    failed: int
    detail: str

    @property
    def is_over(self) -> bool:
        return self.status in OVER


class BatchServer:
    """One provider. Use as a context manager.

    Args:
        settings: base_url, api_key_env, max_attempts.
        backoff_s: first pause before another attempt; doubles up to 30 s.

    Raises (any method):
        ServerUnreachable: nothing answers, after the last attempt.
        ServerRefused: it says no; the message says what to mend.
    """

    def __init__(self, settings: LLMSettings, backoff_s: float = 1.0) -> None:
        import openai

        self._openai, self._settings, self._backoff_s = openai, settings, backoff_s
        self._key = os.environ.get(settings.api_key_env, "")
        is_loopback = urlsplit(settings.base_url).hostname in _LOOPBACK
        if not self._key and not is_loopback:
            raise SettingsError(
                f"there is no key for {settings.base_url}: the environment variable {settings.api_key_env} is empty",
                f"export {settings.api_key_env}=…, or name another variable in llm.api_key_env",
            )
        self._client: openai.OpenAI = openai.OpenAI(
            api_key=self._key or "none",
            base_url=settings.base_url,
            max_retries=0,
            timeout=openai.Timeout(600.0, connect=10.0),
            http_client=openai.DefaultHttpxClient(trust_env=not is_loopback),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def upload(self, path: Path) -> str:
        """Upload a file of requests, and wait until the provider has looked at it; its id. A repeated upload costs nothing."""

        def send() -> FileObject:
            with path.open("rb") as stream:
                return self._client.files.create(file=(path.name, stream, "application/jsonl"), purpose="batch")

        made = self._try(send, "POST /files")
        file_id, until = _id(made, self._key), time.monotonic() + _LONGEST_CHECK_S
        while getattr(made, "status", "") in _UNCHECKED and time.monotonic() < until:
            time.sleep(min(self._backoff_s, 5.0))
            made = self._try(lambda: self._client.files.retrieve(file_id), f"GET /files/{file_id}")
        return file_id

    def create(self, file_id: str, own_id: str, since: dt.datetime) -> RemoteBatch:
        """Start a batch over an uploaded file, once.

        Args:
            own_id: ours; the provider keeps it with the batch.
            since: when we first could have started it, UTC.
        """

        def send() -> RemoteBatch:
            made = self._client.batches.create(
                input_file_id=file_id, endpoint=_ENDPOINT, completion_window="24h", metadata={_METADATA: own_id}
            )
            return _batch(made, self._key)

        return self._try(send, "POST /batches", before_again=lambda: self.find(own_id, since))

    def find(self, own_id: str, since: dt.datetime) -> RemoteBatch | None:
        """The batch that was started under our id, if there is one among the provider's since then."""
        oldest = (since - _CLOCK_SKEW).timestamp()

        def look() -> RemoteBatch | None:
            for batch in self._client.batches.list(limit=100):
                if batch.created_at < oldest:  # they come newest first
                    return None
                if isinstance(batch.metadata, dict) and batch.metadata.get(_METADATA) == own_id:
                    return _batch(batch, self._key)
            return None

        return self._try(look, "GET /batches")

    def retrieve(self, batch_id: str) -> RemoteBatch | None:
        """The batch as it is now; None if the provider does not know it."""

        def look() -> RemoteBatch | None:
            try:
                return _batch(self._client.batches.retrieve(batch_id), self._key)
            except self._openai.NotFoundError:
                return None

        return self._try(look, f"GET /batches/{batch_id}")

    def download(self, file_id: str, path: Path) -> None:
        """Save a result file; it is whole or not there.

        Raises:
            StageError: the disk is full, or the place cannot be written.
        """
        partial = path.with_name(f".{path.name}.partial")

        def receive() -> None:
            headers = {"Accept-Encoding": "identity"}
            with self._client.files.with_streaming_response.content(file_id, extra_headers=headers) as response:
                try:
                    response.stream_to_file(partial)
                except OSError as error:
                    raise StageError(f"{path} cannot be written: {error}", "make room on the disk and repeat the command") from error

        self._try(receive, f"GET /files/{file_id}/content")
        blot_file(partial, self._key)
        partial.replace(path)

    def _try(self, call: Callable[[], T], what: str, before_again: Callable[[], T | None] | None = None) -> T:
        """Call until it works or the attempts are used up.

        Args:
            before_again: looked at before another attempt: what the one before may have done although it failed.
        """
        import httpx2

        attempts = 0
        while True:
            try:
                return call()
            except self._openai.APIStatusError as error:
                status, detail = error.status_code, f"{error.status_code} {text_without(error.response.text, self._key)[:_SHOWN_CHARS]}"
                wait_s = retry_after_s({k.lower(): v for k, v in error.response.headers.items()}, dt.datetime.now(dt.UTC))
                if not (status in (408, 429) or status >= 500) or status == 501:
                    raise self._refused(status, detail, what) from error
                fault: Exception = error
            except (self._openai.APIConnectionError, httpx2.HTTPError) as error:
                cause = error.__cause__ or error
                detail, wait_s, fault = type(cause).__name__, 0.0, error
            attempts += 1
            if attempts >= max(self._settings.max_attempts, 2):
                raise ServerUnreachable(
                    f"{what} at {self._settings.base_url} failed {attempts} times: {detail}",
                    "repeat the command later: what was sent is remembered and is not sent twice",
                ) from fault
            time.sleep(max(wait_s, min(self._backoff_s * 2.0 ** (attempts - 1), _LONGEST_PAUSE_S)))
            if before_again is not None and (done := before_again()) is not None:
                return done

    def _refused(self, status: int, detail: str, what: str) -> ServerRefused:
        said = f"{self._settings.base_url} refuses {what}: {detail}"
        if status in (401, 403):
            return ServerRefused(said, f"mend the key in the environment variable {self._settings.api_key_env}, and repeat the command")
        if status in (404, 405, 501) and what in ("POST /files", "POST /batches", "GET /batches"):
            return ServerRefused(
                f"{said}: this server has no Batch API (vllm serve has none)",
                "use kar batch export, vllm run-batch -i REQUESTS.jsonl -o RESULTS.jsonl --model …, and kar batch import RESULTS.jsonl",
            )
        return ServerRefused(said, "mend what it says, and repeat the command: what was sent is remembered")


def _id(made: object, key: str) -> str:
    """The id of what a provider made. Raises ServerRefused if the reply is nothing of the kind."""
    found = getattr(made, "id", None)
    if not isinstance(found, str) or not found:
        raise ServerRefused(
            f"the server answered with something that is no OpenAI object: {text_without(str(made), key)[:_SHOWN_CHARS]}",
            "mend llm.base_url; it ends in /v1",
        )
    return found


def _batch(batch: openai.types.Batch, key: str) -> RemoteBatch:
    counts = batch.request_counts if _id(batch, key) else None
    errors = batch.errors.data if batch.errors and batch.errors.data else []
    said = [f"line {e.line}: {e.message}" if e.line else str(e.message) for e in errors[:3]]
    return RemoteBatch(
        id=batch.id,
        status=str(batch.status),
        output_file_id=batch.output_file_id or "",
        error_file_id=batch.error_file_id or "",
        completed=getattr(counts, "completed", None) or 0,
        failed=getattr(counts, "failed", None) or 0,
        detail=text_without("; ".join(said), key) + (f" … {len(errors)} in all" if len(errors) > len(said) else ""),
    )
