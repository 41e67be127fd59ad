-- name: history
-- grain: one row per user with an event before the cutoff
-- key: user_id
-- reads: core_history_event, item
-- takes: mode, cap, cutoff_at
with shown as (
    select
        event.*,
        coalesce(event.rating, cast('nan' as double)) as stars,
        coalesce(item.title, left(event.text, 80), 'item ' || event.item_id) as shown_title
    from core_history_event as event
    left join item on event.item_id = item.item_id
    where event.position >= event.history_count - $cap
),

gathered as (
    select
        user_id,
        any_value(history_count) as position,
        list(item_id order by position) as item_ids,
        list(stars order by position) as ratings,
        list(event_at order by position) as event_ats,
        list(shown_title order by position) as titles,
        max(event_at) as newest_event_at
    from shown
    group by user_id
)

select
    user_id,
    cast(user_id as varchar) as subject_id,
    case when $mode = 'per_user' then newest_event_at else $cutoff_at end as cutoff_at,
    position,
    item_ids,
    ratings,
    event_ats,
    titles,
    newest_event_at,
    sha256(cast(to_json({
        'item_ids': item_ids, 'ratings': ratings, 'event_us': list_transform(event_ats, lambda event_at: epoch_us(event_at))
    }) as varchar)) as evidence_sha
from gathered
