-- name: user_attribute
-- grain: one row per user, attribute and value
-- key: user_id, name, value
-- reads: stg_user
WITH listed AS (
    SELECT
        user_id,
        unnest(attributes, recursive := true)
    FROM stg_user
    WHERE rejected IS NULL
),

valued AS (
    SELECT
        user_id,
        name,
        plain(unnest("values")) AS value,
        generate_subscripts("values", 1) AS place
    FROM listed
)

SELECT
    user_id,
    name,
    value
FROM valued
WHERE value IS NOT NULL
GROUP BY user_id, name, value
