"""Whether a service is well, for health checks: exit code 0 or 1, with one line that says why. Standard library only.

    probe.py URL                      the address answers 200
    probe.py URL --part NAME          … and its JSON says {"NAME": {"status": "healthy"}}, as Airflow's monitor does
    probe.py URL --key-from VARIABLE  sent as a bearer token, if the variable is set

It takes no proxy from the environment: what it asks is a neighbour.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 5.0


def fault(url: str, part: str = "", key: str = "") -> str:
    """What is wrong with the service at the address; empty: nothing.

    Args:
        part: component whose status must be "healthy".
        key: bearer token; empty: none.
    """
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            if response.status != http.client.OK:
                return f"{url} answers {response.status}"
            body = response.read() if part else b""
    except urllib.error.HTTPError as error:
        return f"{url} answers {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer: {error}"
    if not part:
        return ""
    try:
        status = json.loads(body)[part]["status"]
    except (ValueError, KeyError, TypeError):
        return f"{url} says nothing of {part}"
    return "" if status == "healthy" else f"{part} is {status}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether a service is well.")
    parser.add_argument("url")
    parser.add_argument("--part", default="", help="component whose status must be healthy")
    parser.add_argument("--key-from", default="", metavar="VARIABLE", help="environment variable that holds a bearer token")
    chosen = parser.parse_args()
    wrong = fault(chosen.url, chosen.part, os.environ.get(chosen.key_from, "") if chosen.key_from else "")
    print(wrong or "healthy")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
