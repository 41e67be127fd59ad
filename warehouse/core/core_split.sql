-- name: core_split
-- grain: one row per labelled event that no text has seen, with its split
-- key: user_id, position
-- reads: core_example, example_item
-- takes: split, seed, valid_share, test_share, test_users
-- by_user: the users that are named are tested; if none is, they are drawn by the md5 of seed and id, so a user keeps the
-- split when others come or go. by_time: the newest test_share is tested, the valid_share before it validates; events of one
-- instant stay together.
with kept as (
    select
        core_example.* exclude (rejected),
        example_item.is_held_out,
        cast('0x' || md5($seed || ':' || core_example.user_id)[1:15] as bigint) / cast(1152921504606846976 as double) as draw,
        row_number() over (order by core_example.event_at) - 1 as rank_in_time,
        count(*) over () as example_count
    from core_example
    inner join example_item on core_example.item_id = example_item.item_id
    where core_example.rejected is null
),

boundary as (
    select
        min(event_at) filter (where rank_in_time >= floor(example_count * (1 - $test_share))) as test_from,
        min(event_at) filter (where rank_in_time >= floor(example_count * (1 - $test_share - $valid_share))) as valid_from
    from kept
),

named as (select unnest($test_users) as user_text)

select
    kept.user_id,
    kept.item_id,
    kept.event_at,
    kept.position,
    kept.label,
    kept.is_held_out,
    case
        when $split = 'by_time' and kept.event_at >= boundary.test_from then 'test'
        when $split = 'by_time' and kept.event_at >= boundary.valid_from then 'valid'
        when $split = 'by_user' and len($test_users) > 0 and named.user_text is not null then 'test'
        when $split = 'by_user' and len($test_users) > 0 and kept.draw < $valid_share then 'valid'
        when $split = 'by_user' and len($test_users) = 0 and kept.draw < $test_share then 'test'
        when $split = 'by_user' and len($test_users) = 0 and kept.draw < $test_share + $valid_share then 'valid'
        else 'train'
    end as split
from kept
cross join boundary
left join named on cast(kept.user_id as varchar) = named.user_text
