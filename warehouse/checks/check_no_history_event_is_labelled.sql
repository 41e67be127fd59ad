-- name: check_no_history_event_is_labelled
-- grain: one row per example that is an event of the history that a prompt may show, or not newer than all of it
-- key: example_id
-- reads: example, history
-- takes: mode, snapshot_at
with shown as (
    select
        user_id,
        unnest(item_ids) as item_id,
        unnest(event_ats) as event_at
    from history
)

select
    example.example_id,
    example.user_id,
    example.item_id,
    example.event_at,
    history.newest_event_at
from example
inner join history on example.user_id = history.user_id
left join shown
    on
        example.user_id = shown.user_id
        and example.item_id = shown.item_id
        and example.event_at = shown.event_at
where
    shown.user_id is not null
    or example.event_at < history.newest_event_at
    or case
        when $mode = 'per_user' then example.position < history.position
        else example.event_at < $snapshot_at
    end
