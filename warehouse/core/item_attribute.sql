-- name: item_attribute
-- grain: one row per item, attribute and value
-- key: item_id, name, value
-- reads: stg_item
with listed as (
    select
        item_id,
        unnest(attributes) as attribute
    from stg_item
    where rejected is null
),

valued as (
    select
        item_id,
        attribute['name'] as name,
        plain(unnest(attribute['values'])) as value,
        generate_subscripts(attribute['values'], 1) as place
    from listed
)

select
    item_id,
    name,
    value,
    cast(min(place) - 1 as integer) as place
from valued
where value is not null
group by item_id, name, value
