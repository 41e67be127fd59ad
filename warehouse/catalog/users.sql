-- name: users
-- what: one row per user of the newest night: attributes, events, and whether anything is known
-- reads: files.newest_user, files.newest_user_attribute, files.newest_interaction, files.newest_knowledge
with described as (
    select
        user_id,
        string_agg(name || '=' || value, ', ' order by name, value) as attributes
    from files.newest_user_attribute
    group by user_id
),

active as (
    select
        user_id,
        count(*) as event_count,
        min(event_at) as first_event_at,
        max(event_at) as newest_event_at
    from files.newest_interaction
    group by user_id
)

select
    u.user_id,
    u.user_id::varchar as subject_id,
    d.attributes,
    coalesce(a.event_count, 0) as event_count,
    a.first_event_at,
    a.newest_event_at,
    u.user_id::varchar in (
        select subject_id from files.newest_knowledge
        where view like 'user.%'
    ) as has_knowledge
from files.newest_user as u
left join described as d on u.user_id = d.user_id
left join active as a on u.user_id = a.user_id
