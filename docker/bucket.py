"""Make the bucket that releases are published to, and prove that its store can carry them. Runs in kar's environment.

    bucket.py s3://BUCKET[/PREFIX]

A release is served by one object, CURRENT, which is replaced on a condition; a store that writes it all the same would let two publishers
serve two things. So several writers race for one key, first to create it and then to replace it, and exactly one may win each time.
"""

from __future__ import annotations

import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import get_session

from kar.errors import KarError
from kar.release.remote_place import S3Place

WRITERS = 8
_THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def make(bucket: str) -> bool:
    """Make the bucket; endpoint and credentials come from AWS_ variables. Returns whether it was not there.

    Raises:
        ClientError, BotoCoreError: the store refuses, or nothing answers.
    """
    session = get_session()
    client = session.create_client("s3")
    region = session.get_config_variable("region")
    # Amazon's own wants to be told the region, except for its oldest, which must not be
    where = {} if region in (None, "us-east-1") else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        client.create_bucket(Bucket=bucket, **where)
    except ClientError as error:
        if error.response["Error"]["Code"] not in _THERE:
            raise
        return False
    return True


def winners(place: S3Place, name: str, tag: str | None) -> int:
    """How many of several writers at once are told that theirs is the object now.

    Args:
        tag: the object's, which all of them have read; None: they have read that there is none.
    """
    start = Barrier(WRITERS)

    def write(number: int) -> bool:
        start.wait()
        # never the bytes that are there, for a store's tag is often their digest: what is replaced by itself may be replaced again
        return place.replace_if(name, f"{number} after {tag}".encode(), tag)

    with ThreadPoolExecutor(WRITERS) as pool:
        return sum(pool.map(write, range(WRITERS)))


def fault(place: S3Place) -> str:
    """Why releases cannot be published there; empty: they can. Leaves nothing behind.

    Raises:
        ReleaseError: the store refuses, or nothing answers.
    """
    name = f"_race/{uuid.uuid4().hex}"
    try:
        if (created := winners(place, name, None)) != 1:
            return f"{created} of {WRITERS} writers at once created the same object, and one may"
        held = place.read(name)
        if held is None:
            return "an object that was written is not there"
        if (replaced := winners(place, name, held.tag)) != 1:
            return f"{replaced} of {WRITERS} writers at once replaced the same object, and one may"
    finally:
        place.delete(name)
    return ""


def main(arguments: list[str]) -> int:
    try:
        place = S3Place(*arguments)
        is_new = make(place.bucket)
        wrong = fault(place)
        do = "name a store that writes on a condition (If-None-Match, If-Match), or publish to the scenario's folder"
    except KarError as error:
        wrong, do = error.what, error.do
    except (BotoCoreError, ClientError) as error:
        wrong, do = f"the bucket was not made: {error}", "see that the store runs and that AWS_ENDPOINT_URL and the credentials are its own"
    if wrong:
        print(f"releases cannot be published to {' '.join(arguments)}: {wrong}\n  do: {do}", file=sys.stderr)
        return 1
    print(f"s3://{place.bucket} {'was made' if is_new else 'is there'}, and writes on a condition")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
