-- name: report_left_out
-- grain: one row per reason for which events after the cut are no examples
-- key: reason
-- reads: core_example, core_split
-- takes: shown_count
with left_out as (
    select
        user_id,
        item_id,
        event_at,
        position,
        rejected
    from core_example
    where rejected is not null
    union all
    select
        user_id,
        item_id,
        event_at,
        position,
        'held_out' as rejected
    from core_split
    where split = 'train' and is_held_out
),

shown as (
    select
        *,
        cast(to_json({ 'user_id': user_id, 'item_id': item_id, 'event_at': event_at, 'position': position }) as varchar) as shown_row
    from left_out
)

select
    rejected as reason,
    count(*) as row_count,
    list_slice(list(shown_row order by user_id, position), 1, $shown_count) as shown_rows
from shown
group by rejected
order by rejected
