-- name: item
-- grain: one row per item; without an items file, per item with an event
-- key: item_id
-- reads: stg_item, core_interaction
-- takes: has_items
SELECT
    item_id,
    title,
    description
FROM stg_item
WHERE rejected IS NULL
UNION ALL
SELECT DISTINCT
    item_id,
    NULL AS title,
    NULL AS description
FROM core_interaction
WHERE rejected IS NULL AND NOT $has_items
