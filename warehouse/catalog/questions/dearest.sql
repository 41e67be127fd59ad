-- name: dearest
-- asks: which texts cost most: every request for them counted, repeats and failures too
-- takes: top=20
with paid as (
    select
        coalesce(nullif(retry_of, ''), request_key) as request_key,
        count(*) as request_count,
        sum(prompt_tokens) as prompt_tokens,
        sum(completion_tokens) as completion_tokens,
        sum(lost_tokens) as lost_tokens,
        sum(usd) as usd,
        max(ended_at) as ended_at
    from answers
    group by all
),

asked as (
    select
        request_key,
        view,
        subject_id,
        max(date) as date
    from plans
    where request_key != ''
    group by all
)

select
    a.view,
    a.subject_id,
    a.date,
    p.usd,
    p.prompt_tokens + p.completion_tokens + p.lost_tokens as tokens,
    p.prompt_tokens,
    p.completion_tokens,
    p.request_count,
    r.reason as refused_because,
    k.text
from paid as p
inner join asked as a on p.request_key = a.request_key
left join knowledge as k on a.request_key = k.request_key and a.date = k.date and a.view = k.view and a.subject_id = k.subject_id
left join refused as r on a.date = r.date and a.view = r.view and a.subject_id = r.subject_id
order by p.usd desc, tokens desc, a.view asc, a.subject_id asc
limit $top::bigint
