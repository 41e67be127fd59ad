-- name: core_event
-- grain: one row per interaction before the cutoff, with its place in the user's order
-- key: user_id, position
-- reads: interaction
-- takes: cutoff_at
select
    user_id,
    item_id,
    event_at,
    tie_key,
    rating,
    click,
    text,
    row_number() over (partition by user_id order by event_at, tie_key, item_id) - 1 as position,
    count(*) over (partition by user_id) as event_count
from interaction
where event_at < $cutoff_at
