-- name: stg_item
-- grain: one row per row of the items file
-- key: source_row
-- reads: raw_item, stg_forgotten
with forgotten as (
    select to_item_id(subject_id) as item_id
    from stg_forgotten
    where side = 'item'
)

select
    source_row,
    item_id as item_text,
    to_item_id(item_id) as item_id,
    plain(title) as title,
    plain(description) as description,
    attributes,
    coalesce(
        item_id_fault(item_id),
        case when to_item_id(item_id) in (select forgotten.item_id from forgotten) then 'forgotten' end,
        case when row_number() over (partition by to_item_id(item_id) order by source_row) > 1 then 'duplicate_key' end
    ) as rejected
from raw_item
