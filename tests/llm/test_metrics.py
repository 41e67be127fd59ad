"""What is read of /metrics: old names and new, several engines, and nothing at all where a figure is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kar.llm.metrics import Reading, read

# as vLLM 0.32 writes it
VLLM = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 12.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="tiny"} 3.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="tiny",reason="capacity"} 99.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 1000.0
# TYPE vllm:prefix_cache_queries_created gauge
vllm:prefix_cache_queries_created{engine="0",model_name="tiny"} 1.763e+09
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 640.0
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="tiny"} 2.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="tiny"} 0.0
"""
SGLANG = """
sglang:num_running_reqs{model_name="m"} 7.0
sglang:num_queue_reqs{model_name="m"} 1.0
sglang:token_usage{model_name="m"} 0.5
sglang:num_retracted_reqs{model_name="m"} 0.0
sglang:prompt_tokens_total{model_name="m"} 200.0
sglang:cached_tokens_total{model_name="m"} 50.0
"""


def test_the_page_of_vllm_is_read() -> None:
    assert read(VLLM.encode()) == Reading(3, 12, 0.25, 2, prefix_hits=640, prefix_queries=1000)


def test_the_page_of_sglang_is_read() -> None:
    assert read(SGLANG.encode()) == Reading(1, 7, 0.5, 0, prefix_hits=50, prefix_queries=200)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
        ("num_preemptions_total", "num_preemptions"),
        ("prefix_cache_hits_total", "gpu_prefix_cache_hits_total"),
        ("prefix_cache_hits_total", "prefix_cache_hits"),
        ("prefix_cache_queries_total", "gpu_prefix_cache_queries"),
    ],
)
def test_old_and_new_names_mean_the_same(new: str, old: str) -> None:
    assert read(VLLM.replace(new, old).encode()) == read(VLLM.encode())


def test_engines_are_added_up_and_the_fullest_memory_counts() -> None:
    second = VLLM.replace('engine="0"', 'engine="1"').replace("0.25", "0.75")
    assert read((VLLM + second).encode()) == Reading(6, 24, 0.75, 4, prefix_hits=1280, prefix_queries=2000)


@pytest.mark.parametrize("needed", ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total"])
def test_a_page_that_lacks_a_needed_figure_is_unreadable(needed: str) -> None:
    assert read(VLLM.replace(f"vllm:{needed}{{", f"vllm:was_{needed}{{").encode()) is None


def test_prefix_figures_may_be_missing() -> None:
    seen = read(VLLM.replace("prefix_cache", "prefix_hoard").encode())
    assert seen == Reading(3, 12, 0.25, 2)


@pytest.mark.parametrize("page", [b"", b"<html>not here</html>", b"vllm:num_requests_running{engine=", b"\xff\xfe"])
def test_another_page_is_unreadable(page: bytes) -> None:
    assert read(page) is None


def test_a_figure_that_is_no_number_makes_the_page_unreadable() -> None:
    assert read(VLLM.replace("12.0", "NaN").encode()) is None
    assert read(VLLM.replace("12.0", "+Inf").encode()) is None


@given(st.binary(max_size=200), st.integers(0, 900))
def test_for_all_damage_to_a_page_nothing_is_raised(noise: bytes, at: int) -> None:
    page = VLLM.encode()
    seen = read(page[:at] + noise + page[at:])
    assert seen is None or isinstance(seen, Reading)
