-- name: item_attribute
-- grain: one row per item, attribute and value
-- key: item_id, name, value
-- reads: stg_item
WITH listed AS (
    SELECT
        item_id,
        unnest(attributes, recursive := true)
    FROM stg_item
    WHERE rejected IS NULL
),

valued AS (
    SELECT
        item_id,
        name,
        plain(unnest("values")) AS value,
        generate_subscripts("values", 1) AS place
    FROM listed
)

SELECT
    item_id,
    name,
    value,
    CAST(min(place) - 1 AS INTEGER) AS place
FROM valued
WHERE value IS NOT NULL
GROUP BY item_id, name, value
