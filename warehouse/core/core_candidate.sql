-- name: core_candidate
-- grain: one row per event after the cut, labelled where the label column has a value
-- key: user_id, position
-- reads: core_event, history
-- takes: mode, snapshot_at, label_column, label_operator, label_threshold
-- per_user: what comes after the user's own history. time: what comes at or after the snapshot's cutoff.
WITH judged AS (
    SELECT
        event.user_id,
        event.item_id,
        event.event_at,
        event.position,
        CASE WHEN $label_column = 'click' THEN CAST(event.click AS DOUBLE) ELSE event.rating END AS judged_value
    FROM core_event AS event
    LEFT JOIN history ON event.user_id = history.user_id
    WHERE CASE
        WHEN $mode = 'per_user' THEN event.position >= coalesce(history.position, 0)
        ELSE event.event_at >= $snapshot_at
    END
)

SELECT
    user_id,
    item_id,
    event_at,
    position,
    CAST(CASE
        WHEN judged_value IS NULL OR isnan(judged_value) THEN NULL
        WHEN $label_operator = '>' THEN judged_value > $label_threshold
        WHEN $label_operator = '>=' THEN judged_value >= $label_threshold
        ELSE judged_value = $label_threshold
    END AS INTEGER) AS label
FROM judged
