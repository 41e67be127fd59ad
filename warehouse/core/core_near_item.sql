-- name: core_near_item
-- grain: one row per item and neighbour, the nearest first
-- key: item_id, rank
-- reads: item_edge, item
-- takes: relation, neighbour_count
-- Edges of the night before may name items that are gone.
with ranked as (
    select
        item_edge.item_id,
        row_number() over (
            partition by item_edge.item_id order by item_edge.score desc, item_edge.near_item_id
        ) - 1 as rank,
        item_edge.near_item_id as neighbour_id,
        item_edge.score,
        item_edge.evidence_newest_at
    from item_edge
    semi join item on item_edge.item_id = item.item_id
    semi join item as near_item on item_edge.near_item_id = near_item.item_id
    where item_edge.relation = $relation
)

select *
from ranked
where rank < $neighbour_count
