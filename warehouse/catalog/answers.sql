-- name: answers
-- what: the ledger: every request that was paid for, failures too, with its answer and what it cost
-- reads: files.answer, facts.price
with priced as (
    select
        m.model,
        min_by({ 'prompt': p.prompt, 'cached': p.cached, 'completion': p.completion }, p.place) as price
    from (select distinct model from files.answer) as m
    inner join facts.price as p on m.model glob p.pattern
    group by m.model
)

select
    a.key as request_key,
    a.retry_of,
    a.model,
    a.revision,
    a.template_version,
    a.status,
    a.finish_reason,
    a.text,
    a.prompt_tokens,
    a.cached_tokens,
    a.completion_tokens,
    a.reasoning_tokens,
    a.lost_tokens,
    (
        (a.prompt_tokens - a.cached_tokens + a.lost_tokens) * p.price.prompt
        + a.cached_tokens * p.price.cached
        + a.completion_tokens * p.price.completion
    ) / 1e6 as usd,
    a.attempts,
    a.detail,
    a.started_at,
    a.ended_at,
    a.ended_at::date as day,
    a.server_version,
    a.body
from files.answer as a
left join priced as p on a.model = p.model
