-- name: report_interaction
-- grain: one row
-- key:
-- reads: interaction
with per_second as (
    select
        user_id,
        count(*) as event_count
    from interaction
    group by user_id, date_trunc('second', event_at)
)

select
    (select coalesce(sum(event_count) filter (where event_count > 1) / sum(event_count), 0.0) from per_second) as tie_share,
    min(event_at) as first_event_at,
    max(event_at) as last_event_at
from interaction
