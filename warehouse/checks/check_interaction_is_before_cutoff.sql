-- name: check_interaction_is_before_cutoff
-- grain: one row per interaction at or after the cutoff
-- key: user_id, item_id, event_at
-- reads: interaction
-- takes: cutoff_at
select
    user_id,
    item_id,
    event_at
from interaction
where event_at >= $cutoff_at
