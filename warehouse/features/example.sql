-- name: example
-- grain: one row per labelled example
-- key: example_id
-- reads: core_split, knowledge
with kept as (
    select
        *,
        row_number() over (order by user_id, position) - 1 as example_id
    from core_split
    where split <> 'train' or not is_held_out
),

known as (
    select distinct
        split_part(view, '.', 1) as side,
        subject_id
    from knowledge
)

select
    kept.example_id,
    kept.user_id,
    kept.item_id,
    kept.event_at,
    kept.position,
    kept.label,
    kept.split,
    known_user.subject_id is not null as has_user_knowledge,
    known_item.subject_id is not null as has_item_knowledge
from kept
left join known as known_user on known_user.side = 'user' and cast(kept.user_id as varchar) = known_user.subject_id
left join known as known_item on known_item.side = 'item' and cast(kept.item_id as varchar) = known_item.subject_id
