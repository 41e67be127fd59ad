-- name: user
-- grain: one row per user; without a users file, per user with an event
-- key: user_id
-- reads: stg_user, core_interaction
-- takes: has_users
select user_id from stg_user
where rejected is null
union
select user_id from core_interaction
where rejected is null and not $has_users
