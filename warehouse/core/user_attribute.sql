-- name: user_attribute
-- grain: one row per user, attribute and value
-- key: user_id, name, value
-- reads: stg_user
with listed as (
    select
        user_id,
        unnest(attributes) as attribute
    from stg_user
    where rejected is null
),

valued as (
    select
        user_id,
        attribute['name'] as name,
        plain(unnest(attribute['values'])) as value,
        generate_subscripts(attribute['values'], 1) as place
    from listed
)

select
    user_id,
    name,
    value
from valued
where value is not null
group by user_id, name, value
