-- name: core_interaction
-- grain: one row per row of the interactions file, with the verdict on it
-- key: source_row
-- reads: stg_interaction, stg_user, stg_item
-- takes: has_users, has_items
with known_user as (
    select user_id
    from stg_user
    where rejected is null
),

known_item as (
    select item_id
    from stg_item
    where rejected is null
),

known as materialized (
    select
        interaction.* exclude (rejected),
        case
            when interaction.rejected is not null then interaction.rejected
            when $has_users and known_user.user_id is null then 'unknown_user'
            when $has_items and known_item.item_id is null then 'unknown_item'
        end as rejected
    from stg_interaction as interaction
    left join known_user on interaction.user_id = known_user.user_id
    left join known_item on interaction.item_id = known_item.item_id
),

-- few keys repeat: to group by them and join is a third of numbering every row within its key
repeated as (
    select
        user_id,
        item_id,
        event_at,
        min(source_row) as first_row
    from known
    where rejected is null
    group by user_id, item_id, event_at
    having count(*) > 1
)

select
    known.* exclude (rejected),
    case
        when known.rejected is not null then known.rejected
        when known.source_row > repeated.first_row then 'duplicate_key'
    end as rejected
from known
left join
    repeated
    on known.user_id = repeated.user_id and known.item_id = repeated.item_id and known.event_at = repeated.event_at
