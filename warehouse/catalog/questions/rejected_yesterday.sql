-- name: rejected_yesterday
-- asks: what was rejected on a night (the newest without --with night=YYYY-MM-DD): by stage and reason, with one answer to look at
-- takes: night=
with chosen as (
    select coalesce(try_cast(nullif($night, '') as date), max(date)) as date
    from rejected
),

examples as (
    select
        r.reason,
        any_value(r.view || ' ' || r.subject_id) as example,
        any_value(r.detail) as detail,
        any_value(r.answer) as answer
    from (
        select * from refused
        order by view, subject_id
    ) as r
    inner join chosen as c on r.date = c.date
    group by r.reason
)

select
    r.date,
    r.stage,
    r.reason,
    r.meaning,
    r.row_count,
    e.example,
    e.detail,
    e.answer
from rejected as r
inner join chosen as c on r.date = c.date
left join examples as e on r.stage = 'knowledge' and r.reason = e.reason
where r.row_count > 0
order by r.row_count desc, r.stage asc, r.reason asc
