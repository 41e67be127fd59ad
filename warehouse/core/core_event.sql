-- name: core_event
-- grain: one row per interaction before the cutoff, with its place in the user's order
-- key: user_id, position
-- reads: interaction
-- takes: cutoff_at
SELECT
    user_id,
    item_id,
    event_at,
    tie_key,
    rating,
    click,
    text,
    row_number() OVER (PARTITION BY user_id ORDER BY event_at, tie_key, item_id) - 1 AS position,
    count(*) OVER (PARTITION BY user_id) AS event_count
FROM interaction
WHERE event_at < $cutoff_at
