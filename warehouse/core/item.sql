-- name: item
-- grain: one row per item; without an items file, per item with an event
-- key: item_id
-- reads: stg_item, core_interaction
-- takes: has_items
select
    item_id,
    title,
    description
from stg_item
where rejected is null
union all
select distinct
    item_id,
    null as title,
    null as description
from core_interaction
where rejected is null and not $has_items
