-- name: core_history_event
-- grain: one row per event that a prompt may know of
-- key: user_id, position
-- reads: core_event
-- takes: mode, cap
-- time: every event before the cutoff. per_user: KAR's protocol for a static data set, the first min((n + 1) // 2, cap)
-- of a user's n events; what comes after them is for examples.
with counted as (
    select
        *,
        case when $mode = 'per_user' then least((event_count + 1) // 2, $cap) else event_count end as history_count
    from core_event
)

select *
from counted
where position < history_count
