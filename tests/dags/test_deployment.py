"""dags/deployment.py: the variables of a deployment, typed, or a named error."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import deployment
import pytest
from deployment import POOLS, Deployment, DeploymentError

ROOT = Path(__file__).parents[2]


def test_an_empty_environment_is_a_deployment() -> None:
    made = Deployment.from_environment({})
    assert made.runner == "subprocess"
    assert made.publish_by == dt.time(6)
    assert (made.shards, made.shard_requests, made.llm_server) == (10, 500, "none")
    assert made == Deployment()


def test_each_variable_is_taken() -> None:
    made = Deployment.from_environment(
        {
            "KAR_SHARDS": "4",
            "KAR_PUBLISH_BY": "",
            "KAR_PUBLISH_RESERVE": "5",
            "KAR_RETRY_DELAY": "0",
            "KAR_LLM_SERVER": "command",
            "KAR_LLM_URL": "http://127.0.0.1:8000/v1/",
            "KAR_LLM_START": "vllm serve tiny --port 8000",
            "KAR_SOURCES_MARKER": "/data/{date}/_SUCCESS",
            "KAR_SET": "llm.token_budget=100\n\n features.keep=3 \n",
        }
    )
    assert made.shards == 4
    assert made.publish_by is None
    assert made.publish_reserve == dt.timedelta(minutes=5)
    assert made.retry_delay == dt.timedelta(0)
    assert made.llm_url == "http://127.0.0.1:8000/v1"
    assert made.overrides == ("llm.token_budget=100", "features.keep=3")


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"KAR_RUNNER": "podman"}, "KAR_RUNNER to one of subprocess, docker, kubernetes"),
        ({"KAR_RUNNER": "docker"}, "set KAR_IMAGE"),
        ({"KAR_SHARDS": "0"}, "KAR_SHARDS to a whole number, 1 or more"),
        ({"KAR_SHARD_REQUESTS": "½"}, "KAR_SHARD_REQUESTS to a whole number"),
        ({"KAR_PUBLISH_BY": "six"}, "KAR_PUBLISH_BY to a time of day"),
        ({"KAR_CATCH_UP_FROM": "monday"}, "KAR_CATCH_UP_FROM to a date"),
        ({"KAR_LLM_SERVER": "standing"}, "set KAR_LLM_URL"),
        ({"KAR_LLM_SERVER": "command", "KAR_LLM_URL": "http://a/v1"}, "set KAR_LLM_START"),
        ({"KAR_LLM_SERVER": "command", "KAR_LLM_URL": "http://a/v1", "KAR_LLM_START": "vllm 'serve"}, "quote KAR_LLM_START"),
        ({"KAR_SOURCES_MARKER": "/data/_SUCCESS"}, "put {date}"),
        ({"KAR_SET": "llm.token_budget"}, "section.field=value"),
    ],
)
def test_a_value_that_cannot_be_used_says_what_to_do(variables: dict[str, str], named: str) -> None:
    with pytest.raises(DeploymentError, match=re.escape(named)):
        Deployment.from_environment(variables)


def test_the_first_night_that_is_made_up_for_is_the_one_after_the_oldest_date() -> None:
    caught_up = Deployment.from_environment({"KAR_CATCH_UP_FROM": "2026-11-15"})
    assert caught_up.first_night == dt.datetime(2026, 11, 16, tzinfo=dt.UTC)
    assert Deployment.from_environment({}).catch_up_from is None


def test_every_variable_that_is_read_is_listed_and_the_other_way_round() -> None:
    source = (ROOT / "dags" / "deployment.py").read_text(encoding="utf-8")
    listed = set(re.findall(r"^ *(KAR_[A-Z_]+) +\S", deployment.__doc__ or "", re.MULTILINE))
    code = source.split('"""', 2)[2]
    assert listed == set(re.findall(r'"(KAR_[A-Z_]+)"', code))
    assert len(listed) >= 20


def test_the_pools_are_those_of_the_file() -> None:
    pools = json.loads((ROOT / "dags" / "pools.json").read_text(encoding="utf-8"))
    assert tuple(pools) == POOLS
    assert all(pool["slots"] >= 1 and pool["description"] for pool in pools.values())
