-- name: report_rejected
-- grain: one row per source table and reason
-- key: source, reason
-- reads: raw_bad_row, stg_user, stg_item, core_interaction
-- takes: shown_count
with rejected_row as (
    select
        source,
        source_row,
        'bad_row' as reason,
        to_json({ 'line': left(text, 200), 'fault': fault }) as shown
    from raw_bad_row
    union all
    select
        'users' as source,
        source_row,
        rejected as reason,
        to_json({ 'user_id': user_text }) as shown
    from stg_user
    where rejected is not null
    union all
    select
        'items' as source,
        source_row,
        rejected as reason,
        to_json({ 'item_id': item_text, 'title': title }) as shown
    from stg_item
    where rejected is not null
    union all
    select
        'interactions' as source,
        source_row,
        rejected as reason,
        to_json({
            'user_id': user_text, 'item_id': item_text, 'event_at': event_text, 'rating': rating_text, 'click': click_text
        }) as shown
    from core_interaction
    where rejected is not null
),

placed as (
    select
        *,
        row_number() over (partition by source, reason order by source_row) as place
    from rejected_row
)

select
    source,
    reason,
    count(*) as row_count,
    coalesce(list(source_row order by source_row) filter (where place <= $shown_count and reason <> 'forgotten'), []) as source_rows,
    coalesce(
        list(cast(shown as varchar) order by source_row) filter (where place <= $shown_count and reason <> 'forgotten'), []
    ) as shown_rows
from placed
group by source, reason
order by source, reason
