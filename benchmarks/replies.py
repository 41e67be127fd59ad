"""What the mock server says: vLLM's names and shapes, prepared as bytes."""

from __future__ import annotations

import json
import random

MODEL = "mock-8b"
VERSION = "0.33.0"
PROMPT_TOKENS, CACHED_TOKENS, COMPLETION_TOKENS = 640, 512, 150
MAX_NUM_SEQS = 256
ANSWER = (
    "This person keeps coming back to slow, carefully built dramas and to crime stories in which the outcome matters less than the people "
    "who live with it. The highest marks go to films whose characters carry a quiet grief, while loud comedies and effects for their own "
    "sake are rated low, even where a famous cast plays in them. Older European titles sit beside recent American ones, so country and "
    "period seem to matter little; mood decides. A sparse score and long, patient camera work are welcome, and endings may stay open. Award "
    "winners are neither sought nor avoided. Two documentaries with full marks suggest an interest in real work and ordinary places, and "
    "the few sequels on the list were given up early, which fits somebody who prefers a story that is told once, and well."
)


_SENTENCE = "The {} and {} films get high marks, {} and {} ones stay {}, and a {} touch decides."
_WORDS = """
slow quick warm cold bright dark tender harsh gentle loud quiet strange plain rich sparse funny grim witty bold shy odd calm wild brisk
dry lush neat raw sly stark suave tense terse vast wry young old rural urban royal humble ancient modern foreign familiar haunted
hopeful jealous lonely loyal musical nervous noble patient playful proud rough sacred savage sleepy stormy stubborn tragic
"""
_TRAITS = _WORDS.split()


def reply(content: bytes, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """An HTTP/1.1 response."""
    head = f"HTTP/1.1 {status}\r\nserver: mock\r\ncontent-type: {content_type}\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


def json_reply(data: object) -> bytes:
    """An HTTP/1.1 response of JSON."""
    return reply(json.dumps(data).encode())


def chat(text: str) -> bytes:
    """The reply to a chat, as vLLM shapes it."""
    message: dict[str, object] = {"role": "assistant", "content": text, "reasoning": None, "tool_calls": []}
    usage = {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": COMPLETION_TOKENS,
        "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
        "prompt_tokens_details": {"cached_tokens": CACHED_TOKENS},
    }
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json_reply(
        {"id": "chatcmpl-1", "object": "chat.completion", "created": 1795000000, "model": MODEL, "choices": choices, "usage": usage}
    )


def varied_answer(number: int) -> str:
    """An answer of about as many words as `ANSWER`; two of them share few runs of words."""
    draw = random.Random(number)
    return " ".join(_SENTENCE.format(*draw.sample(_TRAITS, 6)) for _ in range(6))


CHAT = chat(ANSWER)
MODELS = json_reply(
    {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "vllm", "root": MODEL, "max_model_len": 8192}]}
)
VERSIONS = json_reply({"version": VERSION})
NOT_FOUND = reply(b'{"detail": "Not Found"}', "404 Not Found")


def metrics(in_flight: int, answered: int) -> str:
    """The exposition of vLLM 0.33: gauges as they are, counters with _total."""
    running = min(in_flight, MAX_NUM_SEQS)
    values = {
        ("gauge", "num_requests_running"): running,
        ("gauge", "num_requests_waiting"): in_flight - running,
        ("gauge", "kv_cache_usage_perc"): 0.5 * running / MAX_NUM_SEQS,
        ("counter", "num_preemptions"): 0,
        ("counter", "prefix_cache_queries"): answered * PROMPT_TOKENS,
        ("counter", "prefix_cache_hits"): answered * CACHED_TOKENS,
        ("counter", "prompt_tokens"): answered * PROMPT_TOKENS,
        ("counter", "generation_tokens"): answered * COMPLETION_TOKENS,
    }
    lines = []
    for (kind, name), value in values.items():
        full = f"vllm:{name}_total" if kind == "counter" else f"vllm:{name}"
        lines += [f"# HELP vllm:{name} {name}", f"# TYPE vllm:{name} {kind}", f'{full}{{engine="0",model_name="{MODEL}"}} {float(value)}']
    return "\n".join(lines) + "\n"
