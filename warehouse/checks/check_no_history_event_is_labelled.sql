-- name: check_no_history_event_is_labelled
-- grain: one row per example that is an event of the history that a prompt may show
-- key: example_id
-- reads: example, history
-- takes: mode, snapshot_at
select
    example.example_id,
    example.user_id,
    example.item_id,
    example.event_at,
    history.newest_event_at
from example
inner join history on example.user_id = history.user_id
where
    case
        when $mode = 'per_user' then example.position < history.position
        else example.event_at < $snapshot_at
    end
    or example.event_at < history.newest_event_at
    or list_contains(
        list_zip(history.item_ids, history.event_ats), {'item_ids': example.item_id, 'event_ats': example.event_at}
    )
