-- name: core_candidate
-- grain: one row per event after the cut, labelled where the label column has a value
-- key: user_id, position
-- reads: core_label, history
-- takes: mode, snapshot_at
-- per_user: what comes after the user's own history. time: what comes at or after the snapshot's cutoff.
select
    event.user_id,
    event.item_id,
    event.event_at,
    event.position,
    event.label
from core_label as event
left join history on event.user_id = history.user_id
where case
    when $mode = 'per_user' then event.position >= coalesce(history.position, 0)
    else event.event_at >= $snapshot_at
end
