"""What a container's or pod's exit code means to Airflow: the same as that of a process (runner.py says which code is what)."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowException, AirflowFailException

USAGE, HELD_BACK = 2, 3


def failure(code: int, words: str) -> AirflowException:
    """The exception of a kar command that ended with this code: one that is never retried for 2 and 3, else one that is.

    Args:
        words: what kar complained of.
    """
    if code == HELD_BACK:
        return AirflowFailException(f"held back by a gate: {words or 'see above'}")
    if code == USAGE:
        return AirflowFailException(f"wrong usage of kar, which no retry mends: {words}")
    return AirflowException(f"kar ended with exit code {code}: {words}")
