-- name: stg_user
-- grain: one row per row of the users file
-- key: source_row
-- reads: raw_user
SELECT
    source_row,
    user_id AS user_text,
    to_user_id(user_id) AS user_id,
    attributes,
    coalesce(
        user_id_fault(user_id),
        CASE WHEN row_number() OVER (PARTITION BY to_user_id(user_id) ORDER BY source_row) > 1 THEN 'duplicate_key' END
    ) AS rejected
FROM raw_user
