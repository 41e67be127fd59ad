-- name: example_item
-- grain: one row per item of the sequence: what a training may know of it
-- key: item_id
-- reads: core_event, core_evidence
-- takes: seed, held_out_items
-- An item is held out by the md5 of seed and id, so it stays so when others come or go.
with item_text as (
    select
        subject_id,
        max(evidence_newest_at) as evidence_newest_at
    from core_evidence
    where side = 'item'
    group by subject_id
)

select
    item.item_id,
    cast('0x' || md5($seed || ':item:' || item.item_id)[1:15] as bigint)
    / cast(1152921504606846976 as double) < $held_out_items as is_held_out,
    item_text.evidence_newest_at
from (select distinct item_id from core_event) as item
left join item_text on cast(item.item_id as varchar) = item_text.subject_id
