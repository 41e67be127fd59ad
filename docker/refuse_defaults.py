"""No container of ours starts in production with a secret that is missing, too short or printed in .env.example. Standard library only.

KAR_ENVIRONMENT says where we are: production (also when it is not set) or development, where the example's values will do.
A container is given only the secrets that it needs, so only those in its environment are judged. No value is ever printed.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

SECRETS = {
    "POSTGRES_PASSWORD": "POSTGRES_PASSWORD",
    "AIRFLOW__CORE__FERNET_KEY": "FERNET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET": "JWT_SECRET",
    "AIRFLOW__API__SECRET_KEY": "API_SECRET_KEY",
    "ADMIN_PASSWORD": "ADMIN_PASSWORD",
    "KAR_LLM_API_KEY": "LLM_API_KEY",
    "AWS_SECRET_ACCESS_KEY": "S3_SECRET_KEY",
}
"""The variable in a container's environment → its name in .env."""
LEAST_CHARS = 16
_LEAST_CHARS_OF = {"JWT_SECRET": 32, "API_SECRET_KEY": 32}
_FERNET_BYTES = 32
_IN_A_URL = re.compile(r"[A-Za-z0-9._~-]+")


def examples(text: str) -> dict[str, str]:
    """The NAME=value lines of an env file."""
    lines = (line.partition("=") for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip() for name, _, value in lines}


def faults(environ: Mapping[str, str], printed: Mapping[str, str]) -> list[str]:
    """One line for each thing that is wrong with the secrets in the environment.

    Args:
        printed: the values of .env.example.
    """
    where = environ.get("KAR_ENVIRONMENT") or "production"
    if where not in ("production", "development"):
        return [f"KAR_ENVIRONMENT is {where!r}, and must be production or development"]
    held = {ours: environ[theirs] for theirs, ours in SECRETS.items() if theirs in environ}
    wrong = [f"{name} is empty" for name, value in held.items() if not value]
    if _unfit(held.get("POSTGRES_PASSWORD", "")):
        wrong.append("POSTGRES_PASSWORD holds a character that does not fit into a URL: letters, digits and . _ ~ - do")
    if not _is_fernet_key(held.get("FERNET_KEY", "")):
        wrong.append("FERNET_KEY is not 32 bytes in url-safe base64")
    if where == "production":
        wrong += [f"{name} is the one printed in .env.example" for name, value in held.items() if value and value == printed.get(name)]
        wrong += [f"{name} is shorter than {_least(name)} characters" for name, value in held.items() if 0 < len(value) < _least(name)]
        wrong += _shared(held)
    return wrong


def _unfit(password: str) -> bool:
    return bool(password) and not _IN_A_URL.fullmatch(password)


def _least(name: str) -> int:
    return _LEAST_CHARS_OF.get(name, LEAST_CHARS)


def _is_fernet_key(text: str) -> bool:
    try:
        return not text or len(base64.b64decode(text, altchars=b"-_", validate=True)) == _FERNET_BYTES
    except (binascii.Error, ValueError):
        return False


def _shared(held: Mapping[str, str]) -> list[str]:
    named: dict[str, list[str]] = {}
    for name, value in held.items():
        if value:
            named.setdefault(value, []).append(name)
    return [f"{' and '.join(names)} are the same" for names in named.values() if len(names) > 1]


def main() -> int:
    wrong = faults(os.environ, examples(Path(__file__).with_name("env.example").read_text(encoding="utf-8")))
    if not wrong:
        return 0
    print("this container does not start, because of what .env says:", file=sys.stderr)
    for line in wrong:
        print(f"  {line}", file=sys.stderr)
    print("do: write fresh secrets with `make compose-env`; on a laptop KAR_ENVIRONMENT=development will do", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
