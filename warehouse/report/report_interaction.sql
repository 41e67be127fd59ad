-- name: report_interaction
-- grain: one row
-- key:
-- reads: interaction
WITH per_second AS (
    SELECT user_id, count(*) AS event_count
    FROM interaction
    GROUP BY user_id, date_trunc('second', event_at)
)

SELECT
    (SELECT coalesce(sum(event_count) FILTER (WHERE event_count > 1) / sum(event_count), 0.0) FROM per_second) AS tie_share,
    min(event_at) AS first_event_at,
    max(event_at) AS last_event_at
FROM interaction
