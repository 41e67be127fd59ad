-- name: check_no_example_is_in_evidence
-- grain: one row per example and text that has seen its pair, or something newer than it
-- key: example_id, view, reason
-- reads: example, core_evidence
with asked as (
    select
        *,
        'user' as side,
        cast(user_id as varchar) as subject_id
    from example
    union all
    select
        *,
        'item' as side,
        cast(item_id as varchar) as subject_id
    from example
),

seen as (
    select
        view,
        side,
        subject_id,
        unnest(evidence_users) as user_text,
        unnest(evidence_items) as item_text
    from core_evidence
)

select distinct
    asked.example_id,
    seen.view,
    'in_evidence' as reason,
    asked.user_id,
    asked.item_id,
    asked.event_at
from asked
inner join seen
    on
        asked.side = seen.side
        and asked.subject_id = seen.subject_id
        and cast(asked.user_id as varchar) = seen.user_text
        and cast(asked.item_id as varchar) = seen.item_text
union all
select
    asked.example_id,
    evidence.view,
    'before_evidence' as reason,
    asked.user_id,
    asked.item_id,
    asked.event_at
from asked
inner join core_evidence as evidence on asked.side = evidence.side and asked.subject_id = evidence.subject_id
where asked.event_at < evidence.evidence_newest_at
