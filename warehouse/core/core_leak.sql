-- name: core_leak
-- grain: one row per labelled event, knowledge text it would meet and way in which that text has seen too much
-- key: user_id, position, view, reason
-- reads: core_candidate, core_event, core_evidence, core_seen
-- takes: mode
-- in_evidence: the pair (user, item) is in the evidence. before_evidence: the event is older than the newest evidence, or
-- comes before it in the user's order. Both are left out of the examples. `is_fault` marks those that our own prompts can
-- only produce by a mistake: the prompt saw the labelled event itself, or a later event of the same user. Not a fault: a
-- repeat of a pair whose earlier event was seen; another user's later review of the item (per_user mode).
with first_event as (
    select
        user_id,
        item_id,
        min(position) as first_position
    from core_event
    group by user_id, item_id
),

newest as (  -- where the newest evidence of a user's text stands in the user's order
    select
        seen.view,
        seen.subject_id,
        max(event.position) as newest_position
    from core_seen as seen
    inner join core_event as event
        on
            seen.user_id = event.user_id
            and seen.item_id = event.item_id
            and seen.evidence_newest_at = event.event_at
    where seen.side = 'user' and seen.place = seen.pair_count
    group by seen.view, seen.subject_id
),

evidence as (
    select
        core_evidence.*,
        newest.newest_position
    from core_evidence
    left join newest on core_evidence.view = newest.view and core_evidence.subject_id = newest.subject_id
),

pair_hit as (
    select
        candidate.user_id,
        candidate.item_id,
        candidate.event_at,
        candidate.position,
        'in_evidence' as reason,
        seen.view,
        seen.side,
        seen.is_imported,
        seen.evidence_newest_at,
        not seen.is_imported and candidate.position = first_event.first_position as is_fault
    from core_candidate as candidate
    inner join core_seen as seen on candidate.user_id = seen.user_id and candidate.item_id = seen.item_id
    inner join first_event on candidate.user_id = first_event.user_id and candidate.item_id = first_event.item_id
    where seen.subject_id = case when seen.side = 'user' then cast(candidate.user_id as varchar) else cast(candidate.item_id as varchar) end
),

late_user as (
    select
        candidate.user_id,
        candidate.item_id,
        candidate.event_at,
        candidate.position,
        'before_evidence' as reason,
        evidence.view,
        evidence.side,
        evidence.is_imported,
        evidence.evidence_newest_at,
        not evidence.is_imported as is_fault
    from core_candidate as candidate
    inner join evidence on evidence.side = 'user' and cast(candidate.user_id as varchar) = evidence.subject_id
    where candidate.event_at < evidence.evidence_newest_at or candidate.position <= evidence.newest_position
),

late_item as (
    select
        candidate.user_id,
        candidate.item_id,
        candidate.event_at,
        candidate.position,
        'before_evidence' as reason,
        evidence.view,
        evidence.side,
        evidence.is_imported,
        evidence.evidence_newest_at,
        not evidence.is_imported and $mode = 'time' as is_fault
    from core_candidate as candidate
    inner join evidence on evidence.side = 'item' and cast(candidate.item_id as varchar) = evidence.subject_id
    where candidate.event_at < evidence.evidence_newest_at
)

select * from pair_hit
union all
select * from late_user
union all
select * from late_item
