-- name: cost
-- what: what was paid, by day, model and template version: requests, tokens, US dollars
-- reads: answers
select
    day,
    model,
    template_version,
    count(*) as request_count,
    count(*) filter (where status = 'ok') as answered_count,
    sum(prompt_tokens) as prompt_tokens,
    sum(cached_tokens) as cached_tokens,
    sum(completion_tokens) as completion_tokens,
    sum(lost_tokens) as lost_tokens,
    sum(usd) as usd
from answers
group by day, model, template_version
