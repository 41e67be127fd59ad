-- name: sequence
-- grain: one row per interaction, in each user's order
-- key: user_id, position
-- reads: core_event
select
    user_id,
    position,
    item_id,
    event_at,
    coalesce(rating, cast('nan' as double)) as rating
from core_event
