-- name: item_profile
-- grain: one row per item
-- key: item_id
-- reads: item, item_attribute, core_history_event
-- takes: cutoff_at, review_count, review_chars
-- An item with a title or a description is described by itself and has no evidence. An item with neither is described by
-- reviews of history events, newest first, and those events are its evidence.
with named as (
    select
        item_id,
        replace(name, '_', ' ') as label,
        count(*) as value_count,
        string_agg(value, ', ' order by place, value) as shown_values
    from item_attribute
    group by item_id, name
),

attributed as (
    select
        item_id,
        string_agg(
            upper(label[1]) || case
                when value_count = 1 or label[-1:] = 's' then label[2:]
                when label[-1:] = 'y' then label[2:-2] || 'ies'
                else label[2:] || 's'
            end || ': ' || shown_values || '.', ' ' order by label
        ) as shown_attributes
    from named
    group by item_id
),

counted as (
    select
        item_id,
        count(*) as event_count,
        avg(rating) as rating_mean
    from core_history_event
    group by item_id
),

review as (
    select
        event.item_id,
        event.user_id,
        event.event_at,
        left(event.text, $review_chars) as shown_review,
        row_number() over (
            partition by event.item_id order by event.event_at desc, event.tie_key desc, event.user_id desc
        ) as place
    from core_history_event as event
    inner join item on event.item_id = item.item_id
    where item.title is null and item.description is null and event.text is not null
),

reviewed as (
    select
        item_id,
        string_agg(shown_review, ' | ' order by place) as shown_reviews,
        list(cast(user_id as varchar) order by place desc) as evidence_users,
        list(cast(item_id as varchar) order by place desc) as evidence_items,
        max(event_at) as evidence_newest_at
    from review
    where place <= $review_count
    group by item_id
),

described as (
    select
        item.item_id,
        item.title,
        concat_ws(
            ' ',
            case when regexp_matches(item.title, '[.!?]$') then item.title else item.title || '.' end,
            attributed.shown_attributes,
            item.description,
            reviewed.shown_reviews
        ) as text,
        coalesce(counted.event_count, 0) as event_count,
        counted.rating_mean,
        coalesce(reviewed.evidence_users, []) as evidence_users,
        coalesce(reviewed.evidence_items, []) as evidence_items,
        reviewed.evidence_newest_at
    from item
    left join attributed on item.item_id = attributed.item_id
    left join counted on item.item_id = counted.item_id
    left join reviewed on item.item_id = reviewed.item_id
)

select
    item_id,
    cast(item_id as varchar) as subject_id,
    $cutoff_at as cutoff_at,
    title,
    text,
    event_count,
    rating_mean,
    sha256(cast(to_json({ 'title': title, 'text': text }) as varchar)) as evidence_sha,
    evidence_users,
    evidence_items,
    evidence_newest_at
from described
