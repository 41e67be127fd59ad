-- name: user
-- grain: one row per user; without a users file, per user with an event
-- key: user_id
-- reads: stg_user, core_interaction
-- takes: has_users
SELECT user_id FROM stg_user WHERE rejected IS NULL
UNION
SELECT user_id FROM core_interaction WHERE rejected IS NULL AND NOT $has_users
