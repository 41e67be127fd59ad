-- name: sequence
-- grain: one row per interaction, in each user's order
-- key: user_id, position
-- reads: core_label
select
    user_id,
    position,
    item_id,
    event_at,
    coalesce(rating, cast('nan' as double)) as rating,
    coalesce(label, -1) as label
from core_label
