"""A published folder in an object store that speaks S3: what can be read, written and replaced there.

pyarrow's file system reads, writes, lists and copies. It cannot put an object on a condition, so that one thing is botocore's (the extra
`kar[s3]`), which looks for credentials where pyarrow's AWS library does: whoever only reads needs neither. Nothing here renames: a store
has no such thing.

Credentials and endpoint come from the environment and from AWS's own files, never from a uri, a setting or a manifest:
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL(_S3), AWS_CA_BUNDLE.
"""

from __future__ import annotations

import configparser
import datetime as dt
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from kar.errors import ReleaseError, ReleaseNotFound, StoreError

_URI = re.compile(r"^s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])((?:/[^/?#@\s]+)*)/?$")
_CHUNK = 8 << 20
_LARGEST_COPY = 5 << 30  # bytes that one CopyObject takes
_REFUSED = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE|UNRECOGNIZED_CLIENT|EXPIRED|TOKEN|status(?: code)?:? 40[13]|NoCredential", re.I
)
_SILENT = re.compile(r"NETWORK_CONNECTION|REQUEST_TIMEOUT|curlCode|Could not connect|ConnectTimeout|ReadTimeout|EndpointConnection", re.I)
_CONFLICTS = {"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409"}


class Sink(Protocol):
    """Something to write to."""

    def write(self, data: Any) -> int: ...


@dataclass(frozen=True)
class Held:
    """An object's bytes, and the tag that changes when they do."""

    data: bytes
    tag: str


@dataclass(frozen=True)
class Lying:
    """An object as it is listed."""

    bytes: int
    written_at: dt.datetime


class S3Place:
    """The objects below one `s3://bucket/prefix`, named relative to it.

    Raises (all methods):
        ReleaseNotFound: there is no such bucket.
        StoreError: nothing answers, or the store refuses.
    """

    def __init__(self, uri: str) -> None:
        match = _URI.match(uri)
        if match is None:
            raise ReleaseError(
                "a published place in an object store is written s3://bucket/prefix, without credentials, query or empty parts",
                "give credentials and endpoint by AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL, or by AWS_PROFILE",
            )
        self.bucket, self.prefix = match.group(1), match.group(2).strip("/")
        self.uri = f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def read(self, name: str) -> Held | None:
        """A small object; None if it is not there."""
        with self._told(name):
            try:
                with self._files.open_input_stream(self._path(name)) as stream:
                    # the tag was read before the bytes: if both change between, the tag is too old and a replacement fails, as it must
                    tag = stream.metadata()["ETag"].decode()
                    return Held(bytes(stream.read()), tag)
            except FileNotFoundError:
                self._require_bucket()
                return None

    def fetch(self, name: str, to: Sink) -> None:
        """Write an object's bytes to an open file. Raises FileNotFoundError if it is not there."""
        with self._told(name), self._files.open_input_stream(self._path(name)) as stream:
            while chunk := stream.read(_CHUNK):
                to.write(chunk)

    def send(self, path: Path, name: str) -> None:
        """Upload a file whatever lies there."""
        with self._told(name), path.open("rb") as source, self._files.open_output_stream(self._path(name)) as stream:
            while chunk := source.read(_CHUNK):
                stream.write(chunk)

    def copy(self, source: str, name: str, size: int) -> bool:
        """Copy an object within the store; False if it is gone or too large for that, and has to be sent."""
        if size > _LARGEST_COPY:
            return False
        with self._told(name):
            try:
                self._files.copy_file(self._path(source), self._path(name))
            except OSError as error:
                if isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in str(error):
                    return False
                raise
        return True

    def names(self, folder: str = "") -> dict[str, Lying]:
        """Every object below a folder, at any depth, by name."""
        from pyarrow import fs

        with self._told(folder):
            found = self._files.get_file_info(fs.FileSelector(self._path(folder).rstrip("/"), recursive=True, allow_not_found=True))
        start = len(self._path(""))
        return {info.path[start:]: Lying(info.size, info.mtime) for info in found if info.type == fs.FileType.File}

    def delete(self, name: str) -> None:
        """Delete an object; nothing happens if it is not there."""
        try:
            self._writer.delete_object(Bucket=self.bucket, Key=self._key(name))
        except self._refusals as error:
            raise self._named(error) from error

    def write(self, name: str, data: bytes) -> None:
        """Put a small object whatever lies there."""
        try:
            self._writer.put_object(Bucket=self.bucket, Key=self._key(name), Body=data)
        except self._refusals as error:
            raise self._named(error) from error

    def replace_if(self, name: str, data: bytes, tag: str | None) -> bool:
        """Put a small object if it still has the tag it was read with (None: if it is not there). False: somebody was quicker."""
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            self._writer.put_object(Bucket=self.bucket, Key=self._key(name), Body=data, **condition)
        except self._refusals as error:
            if getattr(error, "response", {}).get("Error", {}).get("Code") in _CONFLICTS:
                return False
            raise self._named(error) from error
        return True

    def require_writer(self) -> None:
        """Raise StoreError where botocore is not installed: better before an upload than after it."""
        _ = self._writer

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def _path(self, name: str) -> str:
        return f"{self.bucket}/{self._key(name)}"

    @cached_property
    def _files(self) -> Any:
        from pyarrow import fs

        endpoint, region = (
            _configured("endpoint_url", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            _configured("region", "AWS_REGION", "AWS_DEFAULT_REGION"),
        )
        with self._told(""):
            if region is None and endpoint is None:
                region = fs.resolve_s3_region(self.bucket)
            return fs.S3FileSystem(
                endpoint_override=endpoint,
                region=region,
                connect_timeout=5,
                request_timeout=60,
                allow_delayed_open=True,  # a small object is one request instead of three
                tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE"),
            )

    @property
    def _writer(self) -> Any:
        """botocore's client. Raises StoreError where it is not installed."""
        try:
            return _client(self._files.region, tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("AWS_"))))
        except ImportError as error:
            raise StoreError(
                f"writing to {self.uri} needs botocore, which is not installed; reading does not", "pip install 'kar[s3]'"
            ) from error

    @property
    def _refusals(self) -> tuple[type[Exception], ...]:
        from botocore.exceptions import BotoCoreError, ClientError

        return (BotoCoreError, ClientError)

    def _require_bucket(self) -> None:
        from pyarrow import fs

        if self._files.get_file_info(self.bucket).type == fs.FileType.NotFound:
            raise OSError("AWS Error NO_SUCH_BUCKET")

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        """What pyarrow says as OSError, said by its cause. What the local disk says, and a missing object, pass."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno is not None and "AWS Error" not in str(error):
                raise
            raise self._named(error) from error

    def _named(self, error: Exception) -> ReleaseError:
        """The error by its cause. Only the store's word for it is repeated: its sentences may hold key ids and request lines."""
        response = getattr(error, "response", None) or {}
        match = re.search(r"AWS Error (\w+)", str(error))
        code = response.get("Error", {}).get("Code") or (match.group(1) if match else type(error).__name__)
        text = f"{code} {error}"
        if re.search(r"NO_?SUCH_?BUCKET", text, re.I):
            return ReleaseNotFound(
                f"there is no bucket {self.bucket} at {self._where}", "make it, or name another: features.published, or the uri you gave"
            )
        if _REFUSED.search(text) or code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403"):
            return StoreError(
                f"{self._where} refuses our credentials for {self.uri} ({code})",
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, to ones that may read, write, list and delete there",
            )
        if _SILENT.search(text):
            return StoreError(
                f"nothing answers at {self._where}, where {self.uri} lies ({code}); what was served there before is served still",
                "see that the server runs and that AWS_ENDPOINT_URL names it, then run again",
            )
        return StoreError(f"{self._where} did not do what was asked of {self.uri}: {code}", "look into the store's own log, then run again")

    @property
    def _where(self) -> str:
        endpoint = _configured("endpoint_url", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        if endpoint is None:
            return "Amazon S3"
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


@lru_cache(maxsize=4)
def _client(region: str, environment: tuple[tuple[str, str], ...]) -> Any:
    """One client for all that is written under the same environment: building one reads a tenth of a second of JSON."""
    from botocore.config import Config
    from botocore.session import get_session

    endpoint = _configured("endpoint_url", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    config = Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 3},
        s3={"addressing_style": "path" if endpoint else "auto"},
        request_checksum_calculation="when_required",  # not every store that speaks S3 knows the newer checksums
    )
    return get_session().create_client("s3", region_name=region, endpoint_url=endpoint, config=config)


def _configured(key: str, *variables: str) -> str | None:
    """From the environment, or from the profile in AWS's own file; pyarrow reads neither the endpoint nor the file's region."""
    for variable in variables:
        if os.environ.get(variable):
            return os.environ[variable]
    path = Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    profile = os.environ.get("AWS_PROFILE") or "default"
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (OSError, configparser.Error):
        return None
    section = profile if profile == "default" else f"profile {profile}"
    return parser.get(section, key, fallback=None)
