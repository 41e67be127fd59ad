-- name: core_history_event
-- grain: one row per event that a prompt may know of
-- key: user_id, position
-- reads: core_event
-- takes: mode, cap
-- time: every event before the cutoff. per_user: KAR's protocol for a static data set, the first min((n + 1) // 2, cap)
-- of a user's n events; what comes after them is for examples.
SELECT *
FROM (
    SELECT
        *,
        CASE WHEN $mode = 'per_user' THEN least((event_count + 1) // 2, $cap) ELSE event_count END AS history_count
    FROM core_event
)
WHERE position < history_count
