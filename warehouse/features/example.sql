-- name: example
-- grain: one row per labelled example
-- key: example_id
-- reads: core_example, knowledge
-- takes: split, seed, valid_share, test_share
-- by_user: a user is drawn by the md5 of seed and id, so a user keeps the split when others come or go.
-- by_time: the newest test_share is tested, the valid_share before it validates; events of one instant stay together.
with kept as (
    select
        * exclude (rejected),
        cast('0x' || md5($seed || ':' || user_id)[1:15] as bigint) / cast(1152921504606846976 as double) as draw,
        row_number() over (order by user_id, position) - 1 as example_id,
        row_number() over (order by event_at) - 1 as rank_in_time,
        count(*) over () as example_count
    from core_example
    where rejected is null
),

boundary as (
    select
        min(event_at) filter (where rank_in_time >= floor(example_count * (1 - $test_share))) as test_from,
        min(event_at) filter (where rank_in_time >= floor(example_count * (1 - $test_share - $valid_share))) as valid_from
    from kept
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
    case
        when $split = 'by_time' and kept.event_at >= boundary.test_from then 'test'
        when $split = 'by_time' and kept.event_at >= boundary.valid_from then 'valid'
        when $split = 'by_user' and kept.draw < $test_share then 'test'
        when $split = 'by_user' and kept.draw < $test_share + $valid_share then 'valid'
        else 'train'
    end as split,
    known_user.subject_id is not null as has_user_knowledge,
    known_item.subject_id is not null as has_item_knowledge
from kept
cross join boundary
left join known as known_user on known_user.side = 'user' and cast(kept.user_id as varchar) = known_user.subject_id
left join known as known_item on known_item.side = 'item' and cast(kept.item_id as varchar) = known_item.subject_id
