-- name: stg_interaction
-- grain: one row per row of the interactions file
-- key: source_row
-- reads: raw_interaction, stg_forgotten
-- takes: time_unit, cutoff_at, has_rating, lowest_rating, highest_rating
with forgotten_user as (
    select to_user_id(subject_id) as user_id
    from stg_forgotten
    where side = 'user'
),

forgotten_item as (
    select to_item_id(subject_id) as item_id
    from stg_forgotten
    where side = 'item'
),

typed as (
    select
        source_row,
        user_id as user_text,
        item_id as item_text,
        event_at as event_text,
        rating as rating_text,
        click as click_text,
        to_user_id(user_id) as user_id,
        to_item_id(item_id) as item_id,
        coalesce(native_time, to_event_at(event_at, $time_unit)) as event_at,
        try_cast(rating as double) as rating,
        to_click(click) as click,
        plain(text) as text,
        coalesce(user_id_fault(user_id), item_id_fault(item_id)) as id_fault
    from raw_interaction
)

select
    *,
    case
        when id_fault is not null then id_fault
        when user_id in (select forgotten_user.user_id from forgotten_user) then 'forgotten'
        when item_id in (select forgotten_item.item_id from forgotten_item) then 'forgotten'
        when event_at is null then 'bad_time'
        when event_at >= $cutoff_at then 'after_cutoff'
        when $has_rating and (rating is null or not isfinite(rating)) then 'bad_rating'
        when rating < $lowest_rating or rating > $highest_rating then 'bad_rating'
        when nullif(trim(click_text), '') is not null and click is null then 'bad_rating'
    end as rejected
from typed
