"""Write an .env with fresh secrets: .env.example, every secret in it drawn anew. Standard library only.

    make_env.py [PATH]    PATH: .env unless told; what is there is never overwritten

The file can be read by its owner alone.
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECRETS = ("POSTGRES_PASSWORD", "FERNET_KEY", "JWT_SECRET", "API_SECRET_KEY", "ADMIN_PASSWORD", "LLM_API_KEY", "S3_SECRET_KEY")


def fresh(name: str) -> str:
    """A new value for a secret: 32 random bytes, in the form that it wants."""
    if name == "FERNET_KEY":
        return base64.urlsafe_b64encode(os.urandom(32)).decode()
    return secrets.token_hex(32)


def drawn(example: str) -> str:
    """The example's text with every secret drawn anew."""
    lines = []
    for line in example.splitlines():
        name, equals, _ = line.partition("=")
        lines.append(f"{name}={fresh(name)}" if equals and name in SECRETS else line)
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    path = Path(arguments[0]) if arguments else ROOT / ".env"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{path} is there already, and its secrets may be in use: nothing was written", file=sys.stderr)
        return 1
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(drawn((ROOT / ".env.example").read_text(encoding="utf-8")))
    print(f"wrote {path}; the page's password is ADMIN_PASSWORD in it, the user admin")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
