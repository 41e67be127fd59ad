-- name: stg_item
-- grain: one row per row of the items file
-- key: source_row
-- reads: raw_item
SELECT
    source_row,
    item_id AS item_text,
    to_item_id(item_id) AS item_id,
    plain(title) AS title,
    plain(description) AS description,
    attributes,
    coalesce(
        item_id_fault(item_id),
        CASE WHEN row_number() OVER (PARTITION BY to_item_id(item_id) ORDER BY source_row) > 1 THEN 'duplicate_key' END
    ) AS rejected
FROM raw_item
