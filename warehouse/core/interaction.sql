-- name: interaction
-- grain: one user–item event before the end of the partition date
-- key: user_id, event_at, tie_key, item_id
-- reads: core_interaction
select
    user_id,
    item_id,
    event_at,
    to_tie_key(event_at, item_number(item_id)) as tie_key,
    rating,
    click,
    text
from core_interaction
where rejected is null
