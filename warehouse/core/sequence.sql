-- name: sequence
-- grain: one row per interaction, in each user's order
-- key: user_id, position
-- reads: core_event
SELECT
    user_id,
    position,
    item_id,
    event_at,
    coalesce(rating, CAST('nan' AS DOUBLE)) AS rating
FROM core_event
