-- name: oldest_of_the_busiest
-- asks: whose knowledge is oldest among the top 1,000 users (or items) by traffic; never asked comes first
-- takes: top=1000, side=user, rows=50
with busiest as (
    select
        subject_id,
        event_count,
        newest_event_at
    from (
        select
            subject_id,
            event_count,
            newest_event_at
        from users
        where $side = 'user'
        union all
        select
            subject_id,
            event_count,
            newest_event_at
        from items
        where $side = 'item'
    ) as subjects
    order by event_count desc, subject_id asc
    limit $top::bigint
)

select
    b.subject_id,
    b.event_count,
    k.view,
    k.is_missing,
    k.age_days,
    k.asked_at,
    k.evidence_newest_at,
    b.newest_event_at,
    k.release_id
from busiest as b
inner join release_knowledge as k on b.subject_id = k.subject_id and k.side = $side
where k.origin is distinct from 'pooled'
order by k.is_missing desc, k.asked_at asc, b.event_count desc, b.subject_id asc, k.view asc
limit $rows::bigint
