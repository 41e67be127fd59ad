-- name: stg_interaction
-- grain: one row per row of the interactions file
-- key: source_row
-- reads: raw_interaction
-- takes: time_unit, cutoff_at, has_rating, lowest_rating, highest_rating
WITH typed AS (
    SELECT
        source_row,
        user_id AS user_text,
        item_id AS item_text,
        event_at AS event_text,
        rating AS rating_text,
        click AS click_text,
        to_user_id(user_id) AS user_id,
        to_item_id(item_id) AS item_id,
        coalesce(native_time, to_event_at(event_at, $time_unit)) AS event_at,
        TRY_CAST(rating AS DOUBLE) AS rating,
        to_click(click) AS click,
        plain(text) AS text,
        coalesce(user_id_fault(user_id), item_id_fault(item_id)) AS id_fault
    FROM raw_interaction
)

SELECT
    *,
    CASE
        WHEN id_fault IS NOT NULL THEN id_fault
        WHEN event_at IS NULL THEN 'bad_time'
        WHEN event_at >= $cutoff_at THEN 'after_cutoff'
        WHEN $has_rating AND (rating IS NULL OR NOT isfinite(rating)) THEN 'bad_rating'
        WHEN rating < $lowest_rating OR rating > $highest_rating THEN 'bad_rating'
        WHEN nullif(trim(click_text), '') IS NOT NULL AND click IS NULL THEN 'bad_rating'
    END AS rejected
FROM typed
