-- name: core_example
-- grain: one row per event after the cut, with the verdict on it
-- key: user_id, position
-- reads: core_candidate, core_leak
-- takes: min_history
WITH leak AS (
    SELECT user_id, position, bool_or(reason = 'in_evidence') AS is_in_evidence
    FROM core_leak
    GROUP BY user_id, position
)

SELECT
    candidate.*,
    CASE
        WHEN candidate.label IS NULL THEN 'no_label'
        WHEN candidate.position < $min_history THEN 'short_history'
        WHEN leak.is_in_evidence THEN 'in_evidence'
        WHEN leak.user_id IS NOT NULL THEN 'before_evidence'
    END AS rejected
FROM core_candidate AS candidate
LEFT JOIN leak ON candidate.user_id = leak.user_id AND candidate.position = leak.position
