"""A table of requests as the plan writes it, and result lines as OpenAI and vLLM write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kar.llm.key import body_bytes, request_key
from kar.tables import TABLES, IdTypes


def row(place: int, prompt: str, max_tokens: int = 50) -> dict[str, Any]:
    """A request that stands at `place`."""
    body = body_bytes({"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, "temperature": 0})
    return {
        "place": place,
        "view": "item.facts",
        "subject_id": str(place),
        "request_key": request_key(body, "r1"),
        "revision": "r1",
        "form": "prose",
        "family": "t@1:abc",
        "body": body.decode(),
        "prompt_tokens": 10 + place,
        "answer_tokens": max_tokens,
        "template_version": "t@1:abc",
    }


def write_requests(path: Path, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """A request table in small row groups; its rows."""
    rows = [row(place, prompt) for place, prompt in enumerate(prompts)]
    pq.write_table(pa.Table.from_pylist(rows, schema=TABLES["request"].schema(IdTypes())), path, row_group_size=3)
    return rows


def completion(text: str, finish_reason: str = "stop", **usage: Any) -> dict[str, Any]:
    """A chat completion, as both write it."""
    counts = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19, **usage}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_795_222_800,
        "model": "tiny-2026",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": finish_reason,
            }
        ],
        "usage": counts,
    }


def openai_line(key: str, body: dict[str, Any] | None, status: int = 200, error: dict[str, Any] | None = None) -> str:
    """A line of OpenAI's output or error file; without body and with an error: a request that was never run."""
    response = None if body is None else {"status_code": status, "request_id": "req_1", "body": body}
    return json.dumps({"id": "batch_req_1", "custom_id": key, "response": response, "error": error})


def vllm_line(key: str, body: dict[str, Any] | None, status: int = 200, error: Any = None) -> str:
    """A line as `vllm run-batch` writes it: also a failed request has a response, without body."""
    response = {"status_code": status, "request_id": "vllm-batch-1", "body": body}
    return json.dumps({"id": "vllm-1", "custom_id": key, "response": response, "error": error})
