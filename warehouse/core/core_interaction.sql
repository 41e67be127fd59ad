-- name: core_interaction
-- grain: one row per row of the interactions file, with the verdict on it
-- key: source_row
-- reads: stg_interaction, stg_user, stg_item
-- takes: has_users, has_items
WITH known AS (
    SELECT
        interaction.* EXCLUDE (rejected),
        CASE
            WHEN interaction.rejected IS NOT NULL THEN interaction.rejected
            WHEN $has_users AND known_user.user_id IS NULL THEN 'unknown_user'
            WHEN $has_items AND known_item.item_id IS NULL THEN 'unknown_item'
        END AS rejected
    FROM stg_interaction AS interaction
    LEFT JOIN (SELECT user_id FROM stg_user WHERE rejected IS NULL) AS known_user ON interaction.user_id = known_user.user_id
    LEFT JOIN (SELECT item_id FROM stg_item WHERE rejected IS NULL) AS known_item ON interaction.item_id = known_item.item_id
)

SELECT
    * EXCLUDE (rejected),
    CASE
        WHEN rejected IS NOT NULL THEN rejected
        WHEN row_number() OVER (
            PARTITION BY user_id, item_id, event_at, rejected ORDER BY source_row
        ) > 1 THEN 'duplicate_key'
    END AS rejected
FROM known
