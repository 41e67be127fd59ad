-- name: interactions
-- what: every interaction of the newest night's sources, with the item's title
-- reads: files.newest_interaction, files.newest_item
select
    e.user_id,
    e.item_id,
    i.title,
    e.event_at,
    e.rating,
    e.click,
    e.text
from files.newest_interaction as e
left join files.newest_item as i on e.item_id = i.item_id
