-- name: stg_forgotten
-- grain: one row per user or item of the source's tables that was forgotten
-- key: side, subject_id
-- reads: raw_user, raw_item, raw_interaction, raw_forgotten
-- takes: salt, has_forgotten
-- The digest is that of kar/store/forgotten.py. Where nobody was forgotten, nothing is read.
with met as (
    select
        'user' as side,
        cast(to_user_id(user_id) as varchar) as subject_id
    from raw_user
    where $has_forgotten
    union
    select
        'user' as side,
        cast(to_user_id(user_id) as varchar) as subject_id
    from raw_interaction
    where $has_forgotten
    union
    select
        'item' as side,
        cast(to_item_id(item_id) as varchar) as subject_id
    from raw_item
    where $has_forgotten
    union
    select
        'item' as side,
        cast(to_item_id(item_id) as varchar) as subject_id
    from raw_interaction
    where $has_forgotten
)

select
    met.side,
    met.subject_id
from met
inner join raw_forgotten as listed on listed.digest = sha256($salt || ':' || met.side || ':' || met.subject_id)
