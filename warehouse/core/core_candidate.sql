-- name: core_candidate
-- grain: one row per event after the cut, labelled where the label column has a value
-- key: user_id, position
-- reads: core_event, history
-- takes: mode, snapshot_at, label_column, label_operator, label_threshold
-- per_user: what comes after the user's own history. time: what comes at or after the snapshot's cutoff.
with judged as (
    select
        event.user_id,
        event.item_id,
        event.event_at,
        event.position,
        case when $label_column = 'click' then cast(event.click as double) else event.rating end as judged_value
    from core_event as event
    left join history on event.user_id = history.user_id
    where case
        when $mode = 'per_user' then event.position >= coalesce(history.position, 0)
        else event.event_at >= $snapshot_at
    end
)

select
    user_id,
    item_id,
    event_at,
    position,
    cast(case
        when judged_value is null or isnan(judged_value) then null
        when $label_operator = '>' then judged_value > $label_threshold
        when $label_operator = '>=' then judged_value >= $label_threshold
        else judged_value = $label_threshold
    end as integer) as label
from judged
