-- name: core_engagement
-- grain: one row per user and item with an event that a prompt may know of
-- key: user_id, item_id
-- reads: core_history_event
select
    user_id,
    item_id,
    max(event_at) as newest_event_at
from core_history_event
group by user_id, item_id
order by user_id, item_id
