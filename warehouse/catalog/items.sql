-- name: items
-- what: one row per item of the newest night: title, attributes, events, and whether anything is known
-- reads: files.newest_item, files.newest_item_attribute, files.newest_interaction, files.newest_knowledge
with described as (
    select
        item_id,
        string_agg(name || '=' || value, ', ' order by name, place, value) as attributes
    from files.newest_item_attribute
    group by item_id
),

active as (
    select
        item_id,
        count(*) as event_count,
        avg(rating) as rating_mean,
        max(event_at) as newest_event_at
    from files.newest_interaction
    group by item_id
)

select
    i.item_id,
    i.item_id::varchar as subject_id,
    i.title,
    i.description,
    d.attributes,
    coalesce(a.event_count, 0) as event_count,
    a.rating_mean,
    a.newest_event_at,
    i.item_id::varchar in (
        select subject_id from files.newest_knowledge
        where view like 'item.%'
    ) as has_knowledge
from files.newest_item as i
left join described as d on i.item_id = d.item_id
left join active as a on i.item_id = a.item_id
