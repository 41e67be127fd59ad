-- name: report_example
-- grain: one row per split
-- key: split
-- reads: example, core_event
with per_second as (
    select
        user_id,
        date_trunc('second', event_at) as second_at,
        count(*) as event_count
    from core_event
    group by all
)

select
    example.split,
    count(*) as example_count,
    count(distinct example.user_id) as user_count,
    avg(example.label) as label_mean,
    avg(cast(per_second.event_count > 1 as integer)) as tie_share,
    avg(cast(example.has_user_knowledge as integer)) as has_user_knowledge_share,
    avg(cast(example.has_item_knowledge as integer)) as has_item_knowledge_share
from example
inner join per_second
    on example.user_id = per_second.user_id and date_trunc('second', example.event_at) = per_second.second_at
group by example.split
order by example.split
