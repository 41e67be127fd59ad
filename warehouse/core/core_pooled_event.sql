-- name: core_pooled_event
-- grain: one row per event that a user's pooled history vectors look at: the newest $history_events that a prompt may know of
-- key: user_id, position
-- reads: core_history_event, core_label
-- takes: history_events
-- In per_user mode those are of the first part of the user's events, as for the prompts; the examples come after them.
select
    event.user_id,
    event.position,
    event.item_id,
    event.event_at,
    coalesce(judged.label, -1) as label
from core_history_event as event
inner join core_label as judged on event.user_id = judged.user_id and event.position = judged.position
where event.position >= event.history_count - $history_events
order by event.user_id, event.position
