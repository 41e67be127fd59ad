"""What `kar plan` prints: whom tonight's plan asks and why, and what that costs, before anything is spent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from kar.settings import Settings
from kar.show import aligned, made
from kar.store import Home, Manifest, Partition

_GROUP = ["view", "form", "template_version", "decision", "reason"]
_COSTLY = ("ask", "over_budget")


@dataclass
class Bill:
    """What some requests come to."""

    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    def usd(self, settings: Settings) -> float:
        return float(settings.llm.price().usd(self.prompt_tokens, self.answer_tokens))


def bill(settings: Settings, home: Home, date: dt.date) -> str:
    """Tonight's plan: subjects per view, template, decision and reason; what asking them costs; what is free.

    Raises:
        NotMade: the plan has not been made.
        LedgerError: the ledger is damaged.
    """
    partition = made(home, "prompts", date)
    figures = Manifest.read(partition.manifest_path).figures
    whole, held, paid = asked(home, partition)
    model = " ".join(filter(None, (settings.llm.model, figures.get("model_revision", ""), figures.get("server_version", ""))))
    lines = [f"plan for {date}, model {model} ({settings.llm.provider})", "", *aligned(_table(settings, partition)), ""]
    lines.append(f"to ask   {whole.requests:,} requests, at most {whole.tokens:,} tokens ({_budget(settings, figures)})")
    if held.requests:
        lines.append(f"free     {held.requests:,} of them are in the ledger already, {held.tokens:,} tokens: they are not sent")
    lines.append(f"time     {_time(home, paid.tokens)}")
    usd = paid.usd(settings)
    most = "" if settings.llm.usd_budget is None else f" (budget {settings.llm.usd_budget:,.2f} USD)"
    lines.append(f"money    {usd:,.2f} USD at most{most}" if whole.usd(settings) else "money    none: no price per token is set in [llm]")
    lines += _how_it_is_asked(figures)
    return "\n".join(lines)


def asked(home: Home, partition: Partition) -> tuple[Bill, Bill, Bill]:
    """What a plan's requests come to: all of them, those whose answers the ledger holds, and those that will be sent."""
    whole, held, paid = Bill(), Bill(), Bill()
    for key, prompt, answer, is_held in _requests(home, partition):
        for part in (whole, held if is_held else paid):
            part.requests += bool(key)
            part.prompt_tokens += prompt
            part.answer_tokens += answer
    return whole, held, paid


def _table(settings: Settings, partition: Partition) -> list[tuple[str, ...]]:
    plan = pq.read_table(partition.table("plan"), columns=[*_GROUP, "prompt_tokens", "answer_tokens"])
    groups = plan.group_by(_GROUP).aggregate([([], "count_all"), ("prompt_tokens", "sum"), ("answer_tokens", "sum")])
    table: list[tuple[str, ...]] = [
        ("view", "form", "template", "decision", "reason", "subjects", "prompt tokens", "answer tokens at most", "USD at most")
    ]
    for row in sorted(groups.to_pylist(), key=lambda r: [r[name] for name in ("view", "decision", "reason", "template_version")]):
        cost = Bill(row["count_all"], row["prompt_tokens_sum"], row["answer_tokens_sum"]) if row["decision"] in _COSTLY else Bill()
        counts = (f"{row['count_all']:,}", f"{cost.prompt_tokens:,}", f"{cost.answer_tokens:,}", f"{cost.usd(settings):,.2f}")
        why = (row["decision"].replace("_", " "), row["reason"] or "–")
        table.append((row["view"], row["form"], row["template_version"] or "–", *why, *counts))
    return table if any(row[-1] != "0.00" for row in table[1:]) else [row[:-1] for row in table]


def _how_it_is_asked(figures: dict[str, Any]) -> list[str]:
    """What is done about reasoning, and which views get prose although factors are wanted."""
    lines = [f"thinking {figures['thinking']}"] if "thinking" in figures else []
    if unserved := [view for view, form in figures.get("forms", {}).items() if form["wanted"] != form["got"]]:
        lines.append(
            f"form     {', '.join(unserved)} in prose: factors are wanted, and the server cannot be held to a schema (llm.structured)"
        )
    return lines


def _requests(home: Home, partition: Partition) -> Iterator[tuple[str, int, int, bool]]:
    """Key, prompt and answer tokens of each request, and whether its answer is in the ledger."""
    from kar.llm.ledger.reading import Reading

    names = ["request_key", "prompt_tokens", "answer_tokens"]
    with Reading(home.ledger) as ledger, pq.ParquetFile(partition.table("request")) as file:
        for batch in file.iter_batches(8_192, columns=names):
            keys, prompts, answers = (batch.column(name).to_pylist() for name in names)
            held = ledger.held(keys)
            yield from ((key, p, a, key in held) for key, p, a in zip(keys, prompts, answers, strict=True))


def _budget(settings: Settings, figures: dict[str, Any]) -> str:
    most = settings.llm.token_budget
    return f"all that are due want {figures.get('wanted_tokens', 0):,}; budget " + ("no limit" if most is None else f"{most:,}")


def _time(home: Home, tokens: int) -> str:
    """Estimated from the newest night that asked anything; unknown before the first."""
    if not tokens:
        return "none: nothing is sent"
    for partition in reversed(home.partitions("knowledge")):
        figures = Manifest.read(partition.manifest_path).figures
        spent = figures.get("prompt_tokens", 0) + figures.get("completion_tokens", 0)
        if spent and figures.get("seconds_asking"):
            rate = spent / figures["seconds_asking"]
            return f"about {tokens / rate:,.0f} s at the {rate:,.0f} tokens/s of {partition.date}"
    return "unknown until one night has been asked"
