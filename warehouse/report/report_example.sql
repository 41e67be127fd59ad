-- name: report_example
-- grain: one row per split
-- key: split
-- reads: example, core_event
WITH per_second AS (
    SELECT user_id, date_trunc('second', event_at) AS second_at, count(*) AS event_count
    FROM core_event
    GROUP BY ALL
)

SELECT
    example.split,
    count(*) AS example_count,
    count(DISTINCT example.user_id) AS user_count,
    avg(example.label) AS label_mean,
    avg(CAST(per_second.event_count > 1 AS INTEGER)) AS tie_share,
    avg(CAST(example.has_user_knowledge AS INTEGER)) AS has_user_knowledge_share,
    avg(CAST(example.has_item_knowledge AS INTEGER)) AS has_item_knowledge_share
FROM example
INNER JOIN per_second
    ON example.user_id = per_second.user_id AND date_trunc('second', example.event_at) = per_second.second_at
GROUP BY example.split
ORDER BY example.split
