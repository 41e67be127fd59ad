"""What a server says of itself at GET /metrics: how many requests wait and run, how full its memory is.

Servers rename their metrics, so each figure has several names. A figure that is missing makes the whole reading
unreadable: a gate that is steered by half of the truth would be worse than one that is not steered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

# figure → its names, newest first; counters come with and without `_total`. Sources: vLLM 0.32 v1/metrics/loggers.py
# and the names it had before; SGLang 0.5, whose KV use is `token_usage` and whose preemptions are retractions.
ALIASES: dict[str, tuple[str, ...]] = {
    "waiting": ("vllm:num_requests_waiting", "sglang:num_queue_reqs"),
    "running": ("vllm:num_requests_running", "sglang:num_running_reqs"),
    "kv_share": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"),
    "preemptions": ("vllm:num_preemptions_total", "vllm:num_preemptions", "sglang:num_retracted_reqs_total", "sglang:num_retracted_reqs"),
    "prefix_hits": (
        *("vllm:prefix_cache_hits_total", "vllm:prefix_cache_hits", "vllm:gpu_prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits"),
        *("sglang:cached_tokens_total", "sglang:cached_tokens"),
    ),
    "prefix_queries": (
        *("vllm:prefix_cache_queries_total", "vllm:prefix_cache_queries"),
        *("vllm:gpu_prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries"),
        *("sglang:prompt_tokens_total", "sglang:prompt_tokens"),
    ),
}
_NEEDED = ("waiting", "running", "kv_share", "preemptions")
_KNOWN = tuple(name for names in ALIASES.values() for name in names)


@dataclass(frozen=True, slots=True)
class Reading:
    """A server's state at one moment, all its engines together.

    Args:
        waiting, running: requests, of all clients.
        kv_share: of the fullest engine's cache, 0-1.
        preemptions: since the server started.
        prefix_hits, prefix_queries: prompt tokens found in the cache, and looked for, since the server started; 0, 0: not said.
    """

    waiting: int
    running: int
    kv_share: float
    preemptions: int
    prefix_hits: int = 0
    prefix_queries: int = 0


def read(content: bytes) -> Reading | None:
    """The reading in a /metrics page (Prometheus text format).

    Returns:
        None if it is not such a page, or lacks one of waiting, running, KV use and preemptions.
    """
    text = content.decode("utf-8", "replace")
    # a page has some thousand lines of histograms; only ours are parsed
    lines = [line for line in text.splitlines() if line.startswith(_KNOWN)]
    values: dict[str, list[float]] = {}
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                values.setdefault(sample.name, []).append(sample.value)
        found = {figure: _figure(values, names, max if figure == "kv_share" else sum) for figure, names in ALIASES.items()}
        if any(found[figure] is None for figure in _NEEDED):
            return None
        counts = {figure: round(value or 0.0) for figure, value in found.items() if figure != "kv_share"}
        return Reading(kv_share=found["kv_share"] or 0.0, **counts)
    except (ValueError, OverflowError):  # a line of another format; a figure that is not finite
        return None


def _figure(values: dict[str, list[float]], names: tuple[str, ...], together: Callable[[Iterable[float]], float]) -> float | None:
    """The figure under the first of its names that is there, over all labels."""
    return next((float(together(values[name])) for name in names if name in values), None)
