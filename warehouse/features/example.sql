-- name: example
-- grain: one row per labelled example
-- key: example_id
-- reads: core_example, knowledge
-- takes: split, seed, valid_share, test_share
-- by_user: a user is drawn by the md5 of seed and id, so a user keeps the split when others come or go.
-- by_time: the newest test_share is tested, the valid_share before it validates; events of one instant stay together.
WITH kept AS (
    SELECT
        * EXCLUDE (rejected),
        CAST('0x' || md5($seed || ':' || user_id)[1:15] AS BIGINT) / CAST(1152921504606846976 AS DOUBLE) AS draw,
        row_number() OVER (ORDER BY user_id, position) - 1 AS example_id,
        row_number() OVER (ORDER BY event_at) - 1 AS rank_in_time,
        count(*) OVER () AS example_count
    FROM core_example
    WHERE rejected IS NULL
),

boundary AS (
    SELECT
        min(event_at) FILTER (WHERE rank_in_time >= floor(example_count * (1 - $test_share))) AS test_from,
        min(event_at) FILTER (WHERE rank_in_time >= floor(example_count * (1 - $test_share - $valid_share))) AS valid_from
    FROM kept
),

known AS (
    SELECT DISTINCT split_part(view, '.', 1) AS side, subject_id FROM knowledge
)

SELECT
    kept.example_id,
    kept.user_id,
    kept.item_id,
    kept.event_at,
    kept.position,
    kept.label,
    CASE
        WHEN $split = 'by_time' AND kept.event_at >= boundary.test_from THEN 'test'
        WHEN $split = 'by_time' AND kept.event_at >= boundary.valid_from THEN 'valid'
        WHEN $split = 'by_user' AND kept.draw < $test_share THEN 'test'
        WHEN $split = 'by_user' AND kept.draw < $test_share + $valid_share THEN 'valid'
        ELSE 'train'
    END AS split,
    known_user.subject_id IS NOT NULL AS has_user_knowledge,
    known_item.subject_id IS NOT NULL AS has_item_knowledge
FROM kept
CROSS JOIN boundary
LEFT JOIN known AS known_user ON known_user.side = 'user' AND CAST(kept.user_id AS VARCHAR) = known_user.subject_id
LEFT JOIN known AS known_item ON known_item.side = 'item' AND CAST(kept.item_id AS VARCHAR) = known_item.subject_id
